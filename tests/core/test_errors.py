"""One tree of errors, each of which can be copied and pickled."""

import copy
import inspect
import multiprocessing
import pickle
import threading
import traceback
from concurrent.futures import ProcessPoolExecutor

import pytest

import stereos_proto
from stereos_proto import (
    REDACTED,
    Ack,
    ConnectError,
    ConnectionLost,
    CustomRequest,
    Health,
    IncompleteLine,
    InjectSecret,
    InvalidMessage,
    JcardError,
    JcardFault,
    LineTooLong,
    LocalProtocolError,
    MalformedLine,
    Mount,
    NotReady,
    OutcomeUnknown,
    Ping,
    PreambleError,
    PreambleFailure,
    ProtocolError,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Redactor,
    Refusal,
    RemoteProtocolError,
    Request,
    RequestFailed,
    RequestTimeout,
    SetConfig,
    StepStatus,
    StereosError,
    UnexpectedReply,
    _errors,
    changes_guest,
    encode,
)
from stereos_proto.dialogues import provision

MOUNT = Mount("a", "/b", "9p")
EXAMPLES = [
    StereosError("x"),
    LocalProtocolError("x", refusal=Refusal.FULL),
    RemoteProtocolError("x"),
    LineTooLong("x", limit=5),
    MalformedLine("x", reason="y", column=3, path="type", found="number"),
    IncompleteLine("x", reason="y", column=3),
    InvalidMessage("x", type="mount", path="payload.tag", reason="y", missing=True),
    UnexpectedReply("x", reply=Ack("mount", True), request=Ping()),
    PreambleError("x", failure=PreambleFailure.CUT),
    ConnectError("x", retryable=False, timed_out=True),
    ConnectionLost("x", unanswered=[MOUNT]),
    OutcomeUnknown("x", request=MOUNT, unanswered=(MOUNT, Ping())),
    RequestFailed(MOUNT, "no such tag"),
    RequestTimeout("x", request=MOUNT, sent=True),
    NotReady("x", last_state="booting", tries=4, agents_wanted=["a"], health=Health("booting")),
    NotReady("x", last_state="booting", last_error=RequestFailed(MOUNT, "no"), tries=4),
    JcardError("x", line=3, key="agents", faults=[JcardFault(3, "agents", "y"), JcardFault(4, "name", "z")]),
]


@pytest.mark.parametrize(
    "cls",
    [
        *(LocalProtocolError, LineTooLong, MalformedLine, InvalidMessage, UnexpectedReply),
        *(PreambleError, ConnectError, ConnectionLost, NotReady, JcardError),
    ],
)
def test_the_text_may_be_given_by_its_name(cls):
    assert str(cls(text="no disk")) == "no disk"


@pytest.mark.parametrize(
    ("guest", "text", "named"),
    [
        ("vm", "vm: no", True),
        ("vm", "no vm", True),
        ("vm", "no (vm).", True),
        ("vm", "novm", False),
        ("vm", "vm2", False),
        ("vm", "the vm2 is off", False),
        ("vm", "a novm is no vm", True),
        ("vm", "to xvm and a vmx", False),
        ("vm", "xvm", False),
        ("", "anything", True),
    ],
)
def test_whether_a_guest_is_named(guest, text, named):
    assert _errors._is_named(guest, text) == named


def test_the_examples_are_all_there_are():
    classes = {cls for _, cls in inspect.getmembers(_errors, inspect.isclass) if issubclass(cls, Exception)}
    assert classes == {type(error) for error in EXAMPLES} | {ProtocolError}
    assert all(issubclass(cls, StereosError) for cls in classes)
    assert all(getattr(stereos_proto, cls.__name__) is cls for cls in classes)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def same(twin, error):
    """Whether two errors are of one class and know the same, their causes included."""
    if twin is None or error is None:
        return twin is error
    known, expected = ({**vars(one), "last_error": None} for one in (twin, error))
    return (
        (type(twin), str(twin), twin.args, known) == (type(error), str(error), error.args, expected)
        and twin.__suppress_context__ == error.__suppress_context__
        and same(twin.__cause__, error.__cause__)
        and same(getattr(twin, "last_error", None), getattr(error, "last_error", None))
    )


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_can_be_made_again(error, again):
    for cause in (None, OSError(2, "No such file", "/g"), ConnectionLost("gone", unanswered=[MOUNT])):
        error.__cause__ = cause
        twin = again(error)
        assert twin is not error
        assert same(twin, error)
        assert twin.__traceback__ is None
    error.__cause__ = None


def test_notes_travel_along():
    error = RequestTimeout("late")
    error.add_note("in a test")
    for again in (copy.copy, copy.deepcopy, pickled):
        assert again(error).__notes__ == ["in a test"]


def test_a_note_on_a_copy_is_not_on_the_others():
    error = RequestTimeout("late").about("web-5")
    for again in (copy.copy, copy.deepcopy, pickled):
        twin = again(error)
        twin.add_note("mine")
        assert error.__notes__ == ["guest: web-5"]
        assert twin.__notes__ == ["guest: web-5", "mine"]


class ByKeyword(StereosError):
    """An error of somebody else's, whose constructor does not take its `args`."""

    def __init__(self, *, guest):
        super().__init__(f"{guest} is gone")
        self.guest = guest


def test_a_class_of_somebody_else():
    for again in (copy.copy, copy.deepcopy, pickled):
        assert same(again(ByKeyword(guest="g")), ByKeyword(guest="g"))


class Breaks(Exception):
    """Pickles well, and breaks the process that reads it."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def test_causes_that_cannot_travel():
    cannot = Exception(threading.Lock())
    for cause in (Breaks("one", "two"), cannot):
        error = NotReady("x", last_error=cause)
        error.__cause__ = cause
        assert copy.copy(error).__cause__ is cause
        twin = pickled(error)
        for stand_in in (twin.__cause__, twin.last_error):
            assert type(stand_in) is Exception
            assert str(stand_in) == f"{type(cause).__qualname__}: {cause}"


# ------------------------------------------------------------------------------------------- other processes

VALUE = "s3nt1nel-9f2c"
SECRET = InjectSecret("TOKEN", VALUE)
PLAN = [SECRET, SetConfig("token = 's3nt1nel-9f2c'"), CustomRequest("rotate", {"to": ["s3nt1nel-9f2c"]})]


def errors_about(request):
    return [
        RequestFailed(request, "no room for s3nt1nel-9f2c"),
        OutcomeUnknown("gone", request=request, unanswered=(Ping(), request)),
        ConnectionLost("gone", unanswered=[request]),
        RequestTimeout("late", request=request, sent=True),
        UnexpectedReply("x", reply=Ack("mount", True), request=request),
        NotReady("x", last_error=RequestFailed(request, "no")),
    ]


def requests_of(error):
    """All requests of which an error tells."""
    told = [getattr(error, "request", None), *getattr(error, "unanswered", ())]
    return [request for request in told if isinstance(request, Request)]


@pytest.mark.parametrize("request_", PLAN, ids=lambda request: request.type)
def test_a_secret_does_not_leave_the_process(request_):
    for error in errors_about(request_):
        chained = StereosError("outer")
        chained.__cause__ = error
        for one in (error, chained):
            assert b"s3nt1nel" not in pickle.dumps(one)
            twin = pickled(pickled(one))
            assert (type(twin), str(twin)) == (type(one), str(one))
        for mine, theirs in zip(requests_of(error), requests_of(pickled(error)), strict=True):
            assert repr(theirs) == repr(mine)
            assert changes_guest(theirs) == changes_guest(mine)
            if mine is request_:
                assert theirs != mine
                with pytest.raises(LocalProtocolError, match="its secret was taken out"):
                    encode(theirs)
        # In this process a copy tells of the request itself.
        for again in (copy.copy, copy.deepcopy):
            assert requests_of(again(error)) == requests_of(error)


def refused():
    raise RequestFailed(SECRET, f"no room for {VALUE}")


def perhaps_done():
    raise OutcomeUnknown("gone", request=SECRET, unanswered=(SECRET,))


def late():
    raise RequestTimeout("late", request=SECRET, sent=True)


def lost():
    raise ConnectionLost("gone", unanswered=(SECRET,)) from OSError(104, "reset")


def report():
    return ProvisionReport(tuple(ProvisionStep.of(request, Ack(request.type, False, "no")) for request in PLAN))


def test_a_process_pool():
    """What an error says about the guest arrives as it was said; before, all of these were a TypeError."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(job) for job in (refused, perhaps_done, late, lost)]
        told = [job.exception(timeout=60) for job in jobs]
        assert [type(error) for error in told] == [RequestFailed, OutcomeUnknown, RequestTimeout, ConnectionLost]
        assert told[0].error == f"no room for {REDACTED}"
        assert told[0].request.name == told[1].request.name == told[1].unanswered[0].name == "TOKEN"
        assert told[2].sent
        arrived = pool.submit(report).result(timeout=60)
    assert [step.label for step in arrived.steps] == ["secret TOKEN", "config", "config"]
    assert {step.status for step in arrived.steps} == {StepStatus.REFUSED}
    for error in (*told, *(step.error for step in arrived.steps)):
        assert "s3nt1nel" not in "".join(traceback.format_exception(error))
        for request in requests_of(error):
            with pytest.raises(LocalProtocolError):
                encode(request)


#: What an error knows that was told nothing but its text.
UNTOLD = {
    LineTooLong: {"limit": 0},
    MalformedLine: {"reason": "text", "column": 0, "path": "", "found": ""},
    IncompleteLine: {"reason": "text", "column": 0, "path": "", "found": ""},
    InvalidMessage: {"type": "", "path": "", "reason": "text", "missing": False},
    LocalProtocolError: {"refusal": Refusal.MESSAGE},
    UnexpectedReply: {"reply": None, "request": None},
    PreambleError: {"failure": PreambleFailure.GARBAGE},
    ConnectError: {"retryable": True, "timed_out": False},
    ConnectionLost: {"unanswered": (), "closed_here": False},
    OutcomeUnknown: {"request": None, "unanswered": (), "closed_here": False},
    RequestTimeout: {"request": None, "sent": False},
    NotReady: {"last_state": None, "last_error": None, "tries": 0, "agents_wanted": (), "health": None},
    JcardError: {"line": 0, "key": "", "faults": ()},
}


@pytest.mark.parametrize("cls", [cls for cls in map(type, EXAMPLES) if cls is not RequestFailed])
def test_the_evidence_is_optional(cls):
    assert str(cls("text")) == "text"
    assert vars(cls("text")) == UNTOLD.get(cls, {})


def test_the_base_says_nothing():
    with pytest.raises(TypeError, match="which say whose mistake it was"):
        ProtocolError("x")


def test_builtin_relatives():
    assert issubclass(LocalProtocolError, ValueError)
    assert issubclass(RequestTimeout, TimeoutError)


def test_a_reason_stands_for_itself():
    assert MalformedLine("x").reason == "x"
    assert InvalidMessage("x").reason == "x"
    assert ConnectionLost("x", unanswered=[MOUNT]).unanswered == (MOUNT,)


def test_which_preambles_are_worth_another_try():
    assert [failure.name for failure in PreambleFailure if failure.retryable] == ["NOBODY_LISTENS", "CUT"]


def test_a_refusal_in_words():
    assert str(RequestFailed(MOUNT, "no such tag")) == "the guest refused mount: no such tag"
    assert str(RequestFailed(MOUNT, "")) == "the guest refused mount: it gave no reason"


def test_a_refusal_that_quotes_the_secret():
    error = RequestFailed(InjectSecret("TOKEN", "hunter22"), 'write "hunter22" to TOKEN: hunter22')
    assert str(error) == 'the guest refused inject_secret: write "[redacted]" to TOKEN: [redacted]'
    assert "hunter22" not in repr(error) + repr(error.args) + repr(vars(error))
    assert RequestFailed(InjectSecret("T", "four"), "no four").error == "no [redacted]"
    # So short a one stands in ordinary words.
    assert RequestFailed(InjectSecret("T", "the"), "no, the folder").error == "no, the folder"
    assert RequestFailed(InjectSecret("T", "no"), "no such folder").error == "no such folder"
    assert RequestFailed(InjectSecret("T", None), "no such folder").error == "no such folder"


def test_an_error_names_its_guest_once():
    error = ConnectionLost("web-5 closed the connection")
    assert error.guest is None
    assert error.about("web-5") is error
    assert (error.guest, getattr(error, "__notes__", [])) == ("web-5", [])
    refused = RequestFailed(Ping(), "no").about("web-5").about("web-6")
    assert (refused.guest, refused.__notes__) == ("web-5", ["guest: web-5"])
    for twin in (copy.copy(refused), pickled(refused)):
        assert (twin.guest, twin.__notes__) == ("web-5", ["guest: web-5"])
    # The label that a session has where it is given none.
    assert not hasattr(RequestFailed(Ping(), "no").about("the guest"), "__notes__")


def test_reports_about_a_plan():
    step = ProvisionStep.of(SECRET, Ack("inject_secret", False, "no"))
    assert copy.copy(step) is copy.deepcopy(step) is step
    assert copy.deepcopy(ProvisionReport((step,))).steps[0].request is SECRET
    assert pickled(ProvisionStep(MOUNT, StepStatus.DONE)) == ProvisionStep(MOUNT, StepStatus.DONE)


def test_plans_stay_here_when_they_hold_a_secret():
    for plan in (ProvisionPlan(secrets=[SECRET]), ProvisionPlan(config=VALUE)):
        with pytest.raises(TypeError, match="may hold a secret, so it is not pickled"):
            pickle.dumps(plan)
        assert copy.deepcopy(plan) == copy.copy(plan) == plan
    assert pickled(ProvisionPlan([MOUNT])) == ProvisionPlan([MOUNT])


def test_a_refusal_that_quotes_the_secret_of_another_step():
    plan = ProvisionPlan([MOUNT], [SECRET], config="token = 'an0ther-one'")
    told = []
    dialogue = provision(plan, on_step=told.append)
    outcomes = [Ack(request.type, False, f"no {VALUE}, no an0ther-one") for request in plan.requests]
    sent = next(dialogue)
    try:
        while True:
            answers, outcomes = outcomes[: len(sent.messages)], outcomes[len(sent.messages) :]
            for index, outcome in enumerate(answers):
                sent.on_outcome(index, outcome)
            sent = dialogue.send(answers)
    except StopIteration as stop:
        report = stop.value
    for step in (*told, *report.steps):
        if step.status is StepStatus.REFUSED:
            assert step.error.error == f"no {REDACTED}, no {REDACTED}"
    assert report.steps[0].status is told[0].status is StepStatus.REFUSED


def test_an_interrupted_refusal_shows_nothing(monkeypatch):
    """Ctrl-C while the guest's sentence is redacted: the frame that it passes does not hold the sentence."""

    def interrupted(_self, _text, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Redactor, "redact", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        RequestFailed(InjectSecret("T", "value"), "it was s3nt1nel")
    for frame, _ in traceback.walk_tb(caught.value.__traceback__.tb_next):
        if frame.f_code.co_filename.endswith("stereos_proto/_errors.py"):
            assert "s3nt1nel" not in repr(frame.f_locals)


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def test_a_deep_copy_keeps_what_cannot_be_copied():
    error = NotReady("x", last_error=ConnectError("y"))
    error.__cause__ = Odd(1, 2)
    twin = copy.deepcopy(error)
    assert twin.__cause__ is error.__cause__
    assert (type(twin.last_error), str(twin.last_error)) == (ConnectError, "y")
    assert twin.last_error is not error.last_error


@pytest.mark.parametrize(
    ("guest", "noted"),
    [("vm-7", False), ("in", True), ("m-7", True), ("guest", True), ("tcp://[::1]:1024", True), ("", False)],
)
def test_a_label_that_is_part_of_a_word_does_not_name_the_guest(guest, noted):
    error = ConnectionLost("cannot send inject_secret to vm-7, which is gone").about(guest)
    assert getattr(error, "__notes__", []) == [f"guest: {guest}"] * noted


@pytest.mark.parametrize(
    ("cause", "reason"),
    [(OSError(104, "Reset"), "Reset"), (EOFError(), "EOFError"), (ValueError("why"), "why"), (OSError("odd"), "odd")],
)
def test_what_is_said_of_a_cause(cause, reason):
    assert _errors.reason_of(cause) == reason


def test_a_type_that_the_caller_made_up_is_shown_short():
    error = RequestFailed(CustomRequest("x\n" * 10**5), "no")
    assert len(str(error)) < 100
    assert str(error).isprintable()
