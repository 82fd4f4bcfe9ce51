"""One tree of errors, each of which can be copied and pickled."""

import copy
import inspect
import pickle

import pytest

import stereos_proto
from stereos_proto import (
    Ack,
    ConnectError,
    ConnectionLost,
    Health,
    IncompleteLine,
    InjectSecret,
    InvalidMessage,
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
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    StereosError,
    UnexpectedReply,
    _errors,
)

MOUNT = Mount("a", "/b", "9p")
EXAMPLES = [
    StereosError("x"),
    LocalProtocolError("x"),
    RemoteProtocolError("x"),
    LineTooLong("x", limit=5),
    MalformedLine("x", reason="y", column=3, path="type", found="number"),
    IncompleteLine("x", reason="y", column=3),
    InvalidMessage("x", type="mount", path="payload.tag", reason="y", missing=True),
    UnexpectedReply("x", reply=Ack("mount", True), request=Ping()),
    PreambleError("x", failure=PreambleFailure.CUT),
    ConnectError("x", retryable=False),
    ConnectionLost("x", unanswered=[MOUNT]),
    OutcomeUnknown("x", request=MOUNT, unanswered=(MOUNT, Ping())),
    RequestFailed(MOUNT, "no such tag"),
    RequestTimeout("x", request=MOUNT, sent=True),
    NotReady("x", last_state="booting", tries=4, agents_wanted=["a"], health=Health("booting")),
]


def test_the_examples_are_all_there_are():
    classes = {cls for _, cls in inspect.getmembers(_errors, inspect.isclass) if issubclass(cls, Exception)}
    assert classes == {type(error) for error in EXAMPLES} | {ProtocolError}
    assert all(issubclass(cls, StereosError) for cls in classes)
    assert all(getattr(stereos_proto, cls.__name__) is cls for cls in classes)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_can_be_made_again(error, again):
    twin = again(error)
    assert twin is not error
    assert (type(twin), str(twin), twin.args, vars(twin)) == (type(error), str(error), error.args, vars(error))


#: What an error knows that was told nothing but its text.
UNTOLD = {
    LineTooLong: {"limit": 0},
    MalformedLine: {"reason": "text", "column": 0, "path": "", "found": ""},
    IncompleteLine: {"reason": "text", "column": 0, "path": "", "found": ""},
    InvalidMessage: {"type": "", "path": "", "reason": "text", "missing": False},
    UnexpectedReply: {"reply": None, "request": None},
    PreambleError: {"failure": PreambleFailure.GARBAGE},
    ConnectError: {"retryable": True},
    ConnectionLost: {"unanswered": ()},
    OutcomeUnknown: {"request": None, "unanswered": ()},
    RequestTimeout: {"request": None, "sent": False},
    NotReady: {"last_state": None, "last_error": None, "tries": 0, "agents_wanted": (), "health": None},
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
