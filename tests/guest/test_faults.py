"""Each fault, as data, as text, and as what a host sees of it on a real socket."""

import inspect
import json
import re
import threading
from contextlib import suppress

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_harness import KINDS, PATIENCE, PONG, Host, ack, ask, ask_patiently, running
from stereos_proto import (
    MAX_LINE_SIZE,
    NEED_DATA,
    Ack,
    AgentStatus,
    CustomRequest,
    GetHealth,
    GuestSession,
    InjectSecret,
    Lifecycle,
    Mount,
    PendingRequest,
    Ping,
    Pong,
    RequestFailed,
    SetConfig,
    Shutdown,
    encode,
)
from stereos_proto_io import UnixSocket, VirtioSerial
from stereos_proto_io.blocking import connect_when_ready
from stereos_proto_io.guest import FAULTS, OLD_TYPES, Fault, FaultPlan, GuestSimulator, faults, parse_fault
from stereos_proto_io.guest._faulty_session import Denied, FaultySession
from stereos_proto_io.guest._orders import Close, Pause, PowerOff, Reboot

MOUNT = Mount("t", "/w", "9p")
READY = {"type": "health", "payload": {"state": "ready", "uptime_seconds": 0}}
TOLD = {"type": "lifecycle", "payload": {"state": "degraded", "message": "a: b"}}


# ------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop", faults.Drop()),
        ("drop@mount", faults.Drop(type="mount")),
        ("drop#3", faults.Drop(number=3)),
        ("drop@mount#3", faults.Drop(type="mount", number=3)),
        ("drop@", faults.Drop(type="")),
        ("late:2s@ping", faults.Late(seconds=2.0, type="ping")),
        ("delay:0.25s", faults.Delay(seconds=0.25)),
        ("reboot", faults.Restart()),
        ("reboot:1.5s#2", faults.Restart(seconds=1.5, number=2)),
        ("cut:0#1", faults.Cut(size=0, number=1)),
        ("push:degraded:a: b@ping", faults.Push(state="degraded", message="a: b", type="ping")),
        ("fail:50%25 %40 %23%0A@mount", faults.Fail(text="50% @ #\n", type="mount")),
        ("fail:", faults.Fail(text="")),
        ("fail", faults.Fail()),
        ("deny:no such share@mount#2", faults.Deny(text="no such share", type="mount", number=2)),
        ("deny", faults.Deny()),
        ("push:degraded", faults.Push(state="degraded")),
        ("push:", faults.Push(state="")),
        ("push::x", faults.Push(state="", message="x")),
        ("push:a%3Ab:c", faults.Push(state="a:b", message="c")),
        ("push:a%3Ab", faults.Push(state="a:b")),
        ("push:a::b", faults.Push(state="a", message=":b")),
        ("omit:", faults.Omit(member="")),
        ("omit:restarts@get_health", faults.Omit(member="restarts", type="get_health")),
        ("refuse:3s", faults.Refuse(seconds=3.0)),
        ("never-ready", faults.NeverReady()),
    ],
)
def test_text(text, fault):
    assert parse_fault(text) == fault
    assert str(fault) == text


def test_times_may_be_written_without_their_unit():
    assert parse_fault("late:2") == parse_fault("late:2s") == parse_fault("late:2.0s")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a fault; there are refuse, "),
        ("dorp", "is not a fault"),
        ("Drop", "is not a fault"),
        ("drop:2s", "takes no argument"),
        ("drop#0", "number must be a whole number from 1 on, not 0"),
        ("drop#x", "'x' is not a number"),
        ("drop#", "'' is not a number"),
        ("late", "it needs seconds: `late:SECONDS`"),
        ("late:soon", "'soon' is not a time"),
        ("late:-1s", "is not a time"),
        ("late:nan", "is not a time"),
        ("late:inf", "is not a time"),
        ("late:", "'' is not a time"),
        ("reboot:", "'' is not a time"),
        ("cut", "it needs size: `cut:BYTES`"),
        ("cut:", "'' is not a number of bytes"),
        ("cut:-1", "'-1' is not a number of bytes"),
        ("omit", "it needs member: `omit:MEMBER`"),
        ("refuse:1s#1", "refuse is of the guest as a whole, and takes no number"),
        ("never-ready@ping", "does not strike at a request"),
        ("reset@ping", "does not strike at a request"),
    ],
)
def test_bad_text(text, why):
    with pytest.raises(ValueError, match=why):
        parse_fault(text)


@st.composite
def any_fault(draw):
    cls = draw(st.sampled_from([*FAULTS.values()]))
    words = st.text(st.characters(exclude_categories=["Cs"])) | st.text("a:@#%")
    values = {
        "seconds": st.floats(0, 1e9),
        "size": st.integers(0, 10**12),
        "text": words,
        "member": words,
        "state": words,
        "message": words,
    }
    given_ = {field.name: draw(values[field.name]) for field in attrs.fields(cls) if field.name in values}
    if not issubclass(cls, faults.GuestFault):
        given_["number"] = draw(st.none() | st.integers(1, 10**9))
    if issubclass(cls, faults.RequestFault):
        given_["type"] = draw(st.none() | words)
    return cls(**given_)


@given(any_fault())
def test_text_round_trips(fault):
    assert parse_fault(str(fault)) == fault
    assert str(fault).isprintable()


@given(st.text())
def test_bad_text_is_a_value_error(text):
    with suppress(ValueError):
        assert parse_fault(parse_fault(text).__str__()) == parse_fault(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("push::x", b'{"type":"lifecycle","payload":{"state":"","message":"x"}}\n'),
        ("fail:", b'{"type":"ack","payload":{"reply_to":"ping","ok":false}}\n'),
    ],
)
def test_an_empty_argument_counts(text, line):
    assert exchange([text], Ping())[0][0].startswith(line)


@pytest.mark.parametrize(
    ("cls", "values", "why"),
    [
        (faults.Drop, {"number": 0}, "number must be a whole number from 1 on, not 0"),
        (faults.Drop, {"number": 2.5}, "number must be a whole number from 1 on, not 2.5"),
        (faults.Drop, {"number": True}, "number must be a whole number from 1 on, not True"),
        (faults.Cut, {"size": True}, "size must be a whole number from 0 on, not True"),
        (faults.NeverReady, {"number": 1}, "never-ready is of the guest as a whole, and takes no number"),
        (faults.Cut, {"size": 2.5}, "size must be a whole number from 0 on, not 2.5"),
        (faults.Cut, {"size": -1}, "size must be a whole number from 0 on, not -1"),
        (faults.Fail, {"text": "\ud800"}, "text holds a lone surrogate, which has no UTF-8"),
        (faults.Drop, {"type": "\udfff"}, "type holds a lone surrogate, which has no UTF-8"),
        (faults.NeverReady, {"type": "ping"}, "never-ready does not strike at a request"),
        (faults.Refuse, {"seconds": 1, "number": 1}, "refuse is of the guest as a whole, and takes no number"),
        (faults.Reset, {"type": "ping"}, "reset does not strike at a request"),
    ],
)
def test_what_has_no_text_is_no_fault(cls, values, why):
    with pytest.raises(ValueError, match=why):
        cls(**values)


@pytest.mark.parametrize(
    ("cls", "values", "words"),
    [
        (faults.Drop, {"type": Ping}, "type must be a str, not type"),
        (faults.Fail, {"text": 5}, "text must be a str, not int"),
        (faults.Deny, {"text": b"no"}, "text must be a str, not bytes"),
        (faults.Push, {"state": None}, "state must be a str, not NoneType"),
    ],
)
def test_texts_are_texts(cls, values, words):
    with pytest.raises(TypeError, match=f"^{words}$"):
        cls(**values)


@pytest.mark.parametrize("bad", [-1, float("inf"), float("nan")])
def test_times_are_checked(bad):
    with pytest.raises(ValueError, match="seconds must be 0 or more"):
        faults.Late(seconds=bad)


def test_each_fault_is_in_the_table_as_it_is_written():
    rows = faults.fault_table()
    assert [row.name for row in rows] == [*FAULTS]
    for row in rows:
        cls = FAULTS[row.name]
        assert cls.name == row.name
        # The documentation of the class is the source of the sentence, and its form is that of the fields.
        assert " ".join(cls.__doc__.partition("\n\n")[0].split()) == f"`{row.form}` - {row.effect}"
        assert row.effect.endswith(".")


@pytest.mark.parametrize("row", faults.fault_table(), ids=lambda row: row.name)
def test_the_example_of_each_fault_is_one(row):
    fault = parse_fault(row.example)
    assert type(fault) is FAULTS[row.name]
    assert str(fault) == row.example
    # It shows the arguments, where there are any.
    assert bool(row.arguments) == (":" in row.example)


@pytest.mark.parametrize(
    ("name", "arguments", "form", "strikes"),
    [
        ("refuse", "SECONDS", "refuse:SECONDS", "guest"),
        ("cut", "BYTES", "cut:BYTES", "connection"),
        ("drop", "", "drop", "request"),
        ("omit", "MEMBER", "omit:MEMBER", "request"),
        ("reboot", "[SECONDS]", "reboot[:SECONDS]", "request"),
        ("push", "[STATE[:MESSAGE]]", "push[:STATE[:MESSAGE]]", "request"),
    ],
)
def test_arguments_that_may_be_left_out_are_in_brackets(name, arguments, form, strikes):
    row = next(row for row in faults.fault_table() if row.name == name)
    assert (row.arguments, row.form, row.strikes) == (arguments, form, strikes)


@pytest.mark.parametrize("cls", [Fault, *FAULTS.values()])
def test_a_fault_takes_its_arguments_by_name(cls):
    kinds = {parameter.kind for parameter in inspect.signature(cls).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("spec", "types", "hint"),
    [
        ("drop@pnig", None, "did you mean 'ping'?"),
        (faults.Late(seconds=1, type="get-health"), None, "did you mean 'get_health'?"),
        ("drop@freez", ["freeze"], "did you mean 'freeze'?"),
    ],
)
def test_a_misspelt_type_gets_a_warning(spec, types, hint):
    options = {} if types is None else {"types": types}
    with pytest.warns(UserWarning, match=f"does not know: {re.escape(hint)}") as noted:
        GuestSimulator(faults=[spec], **options)
    # Once, and at the line that made the guest.
    assert [warning.filename for warning in noted] == [__file__]


def test_types_that_are_not_misspelt_get_none():
    FaultPlan(["drop@", "drop", "fail:no@unmount", "reset#1", "drop@xyzzy"])
    GuestSimulator(faults=["drop@freeze", "drop@ping"], types=["freeze"])


# ------------------------------------------------------------------------------------------------- plan


def test_types_that_no_fault_names_are_not_remembered():
    """A host chooses them, and may send ever new ones."""
    plan = FaultPlan(["drop@mount#2", "blank#51"])
    struck = [plan.on_request(CustomRequest(f"type-{number}")) for number in range(50)]
    assert struck == [()] * 50
    assert [fault.name for fault in plan.on_request(MOUNT)] == ["blank"]
    assert [fault.name for fault in plan.on_request(MOUNT)] == ["drop"]
    assert [*plan._of_type] == ["mount"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: faults.Drop(number=0), "number must be a whole number from 1 on, not 0"),
        (lambda: faults.Drop(number=True + 0.5), "number must be a whole number from 1 on, not 1.5"),
        (lambda: faults.Cut(size=-1), "size must be a whole number from 0 on, not -1"),
        (lambda: faults.Late(seconds=-1), "seconds must be 0 or more, not -1.0"),
    ],
)
def test_arguments_are_checked_however_a_fault_is_made(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_seconds_become_a_float():
    assert type(faults.Late(seconds=1).seconds) is float
    assert type(faults.Cut(size=1).size) is int


@pytest.mark.parametrize("text", ["refuse:1000000001s", "slow-boot:1e308s", "late:9999999999s@ping"])
def test_times_that_no_clock_waits_for_are_refused(text):
    with pytest.raises(ValueError, match="seconds must be at most 1000000000, not"):
        parse_fault(text)


def test_numbers_count_by_type_and_over_all():
    plan = FaultPlan(["drop@mount#2", "blank#3", "garbage"])
    struck = [[fault.name for fault in plan.on_request(request)] for request in [Ping(), MOUNT, MOUNT, MOUNT, Ping()]]
    assert struck == [["garbage"], ["garbage"], ["drop", "blank", "garbage"], ["garbage"], ["garbage"]]


def test_connections_are_counted():
    plan = FaultPlan(["reset#2", "cut:5"])
    assert [[fault.name for fault in plan.on_connection()] for _ in range(3)] == [["cut"], ["reset", "cut"], ["cut"]]


def test_faults_that_never_struck_are_unused():
    texts = ["drop@mount#2", "blank#3", "garbage@shutdown", "reset#2", "cut:5", "drop@mount#2"]
    plan = FaultPlan([*texts, "refuse:0s"])
    assert [str(fault) for fault in plan.unused] == texts
    for cut in plan.on_connection():
        plan.note(cut)
    for request in (MOUNT, Ping(), Ping()):
        plan.on_request(request)
    assert [str(fault) for fault in plan.unused] == ["drop@mount#2", "garbage@shutdown", "reset#2", "drop@mount#2"]
    plan.on_connection()
    plan.on_request(MOUNT)
    assert plan.unused == (faults.Garbage(type="shutdown"),)


@pytest.mark.parametrize("options", [{}, {"has_connections": True}, {"has_connections": False}])
def test_what_ends_a_connection_counts_where_there_is_one(options):
    plan = FaultPlan(["close@ping", "reset"])
    assert len(plan.on_request(Ping(), **options)) == len(plan.on_connection(**options)) == 1
    assert len(plan.unused) == (0 if options.get("has_connections", True) else 2)


def test_a_test_can_see_that_a_fault_never_struck():
    simulator = GuestSimulator(faults=["drop@ping#1", "fail:no@mount#2"])
    with running("blocking", None, simulator) as guest:
        assert ask(guest.address, Ping(), MOUNT) == [ack("mount")]
    assert [str(fault) for fault in simulator.faults.unused] == ["fail:no@mount#2"]


#: Faults → whether they happened, after a ping, a question for the health and another ping on one connection. The
#: health has an agent.
HAPPENED = {
    "cut:16": True,  # a pong has 16 bytes
    "cut:100000": False,
    "cut:5#2": False,
    "omit:restarts@get_health": True,
    "omit:restart@get_health": False,
    "omit:restarts@ping": False,
    "omit:type": True,
    "late:0s": True,
    "delay:0s": True,
    "swap@get_health": True,
    "slow-boot:5s": True,
    "never-ready": True,
    "reset#2": False,
    "hang-up": True,
    "close": True,
}


@pytest.mark.parametrize("text", HAPPENED)
def test_a_fault_that_has_changed_nothing_is_unused(text):
    simulator = GuestSimulator(faults=[text], agents=[AgentStatus("a", running=True)], clock=lambda: 0.0)
    with running("blocking", None, simulator) as guest, Host(guest.address) as host, suppress(OSError):
        host.send(Ping(), GetHealth(), Ping())
        host.end()
        host.rest()
    assert simulator.faults.unused == (() if HAPPENED[text] else (parse_fault(text),))


@pytest.mark.parametrize("text", ["slow-boot:5s", "never-ready"])
@pytest.mark.parametrize(
    ("options", "happens"),
    [
        ({}, True),
        ({"uptime": 4}, True),
        ({"uptime": 100}, False),
        ({"boot_time": 1000}, True),
    ],
)
def test_a_boot_that_no_host_has_heard_of_is_unused(text, options, happens):
    """A guest that is up already has booted. It says so again after a reboot."""
    simulator = GuestSimulator(faults=[text], clock=lambda: 0.0, **options)
    [fault] = simulator.faults.faults
    assert simulator.state == ("booting" if happens or text == "never-ready" else "ready")
    simulator.handle(Ping())
    assert simulator.faults.unused == (fault,)
    assert simulator.handle(GetHealth()).state == simulator.state
    assert simulator.faults.unused == (() if simulator.state == "booting" else (fault,))
    simulator.reboot()
    simulator.handle(GetHealth())
    assert simulator.faults.unused == ()


@pytest.mark.parametrize("forced", ["booting", "degraded"])
def test_a_state_that_is_forced_is_no_slow_boot(forced):
    simulator = GuestSimulator(faults=["slow-boot:5s"], clock=lambda: 0.0)
    simulator.state = forced
    assert simulator.handle(GetHealth()).state == forced
    assert simulator.faults.unused == simulator.faults.faults


def test_beside_never_ready_a_slow_boot_is_unused():
    simulator = GuestSimulator(faults=["slow-boot:5s", "never-ready"])
    simulator.handle(GetHealth())
    assert [str(fault) for fault in simulator.faults.unused] == ["slow-boot:5s"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["reset#1", "hang-up#1", "close@ping#1", "power-off@ping#1", "cut:5"])
def test_where_there_are_no_connections_none_is_ended(kind, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simulator = GuestSimulator(faults=[text])
    with running(kind, VirtioSerial("p"), simulator) as guest, Host(guest.address) as host:
        host.send(Ping())
        assert host.read(5) == b'{"typ'
    ends = text.startswith(("power-off", "cut"))  # half a line is left, of which the host sees no end
    assert simulator.faults.unused == (() if ends else (parse_fault(text),))


@pytest.mark.parametrize(
    ("texts", "unused"), [(["cut:9", "cut:5"], ["cut:9"]), (["reset", "hang-up", "cut:1"], ["reset", "cut:1"])]
)
def test_of_faults_that_end_a_connection_one_happens(texts, unused):
    plan = FaultPlan(texts)
    session = FaultySession(GuestSession(), plan)
    session.receive_data(encode(Ping()))
    pending = session.next_event()
    if isinstance(pending, PendingRequest):
        session.reply(pending, Pong())
    output(session)
    assert [str(fault) for fault in plan.unused] == unused


def test_questions_whether_the_guest_is_ready_count_as_requests():
    """`connect_when_ready` and `wait_ready` ask for the health, and what they ask is counted with the rest."""
    with (
        running("blocking", None, GuestSimulator(faults=["fail:no@get_health#3"])) as guest,
        connect_when_ready(guest.address, timeout=PATIENCE) as client,
    ):
        client.wait_ready(timeout=PATIENCE)
        with pytest.raises(RequestFailed):
            client.get_health()
        assert client.get_health().state == "ready"


def test_boot_and_refusal_times_add_up():
    plan = FaultPlan(["refuse:1s", "slow-boot:2s", faults.SlowBoot(seconds=3), "refuse:0.5s"])
    assert (plan.refuse_time, plan.boot_time) == (1.5, 5.0)
    assert FaultPlan(["slow-boot:2s", "never-ready"]).boot_time == float("inf")
    assert "slow-boot:2s" in repr(FaultPlan(["slow-boot:2s"]))


# -------------------------------------------------------------------------------------- without sockets


class Clock:
    """A clock that goes on when something waits by it."""

    now = 1000.0

    def __call__(self):
        return self.now


def faulty(simulator, *, has_connections=True, **bounds):
    session = GuestSession(has_connections=has_connections, **bounds)
    return FaultySession(session, simulator.faults, clock=Clock())


def exchange(faults_, *requests, has_connections=True):
    """What a guest with those faults does: bytes (joined), pauses in seconds, and orders."""
    simulator = GuestSimulator(faults=faults_, clock=lambda: 0.0)
    session = faulty(simulator, has_connections=has_connections)
    session.receive_data(b"".join(part if isinstance(part, bytes) else encode(part) for part in requests))
    done = []
    while (event := session.next_event()) is not NEED_DATA:
        if isinstance(event, Pause):
            assert session.next_event() is NEED_DATA
            assert not session.wants_data
            done.append(("before", event.seconds))
            session.resume(event)
        elif isinstance(event, PendingRequest):
            session.reply(event, simulator.handle(event.request))
        elif isinstance(event, Denied):
            session.reply(event.pending, simulator.deny(event.pending.request, event.text))
    return done + output(session), simulator, session


def output(session):
    done = []
    while True:
        if (order := session.next_order()) is not None:
            if not isinstance(order, Pause):
                done.append(order)
                continue
            assert (session.next_order(), session.data_to_send()) == (None, b"")
            done.append(order.seconds)
            session._clock.now += order.seconds
            session.resume(order)
        elif data := bytes(session.data_to_send()):
            assert session.wants_write
            session.data_sent(1)
            done[-1:] = [done[-1] + data[:1]] if done and isinstance(done[-1], bytes) else [*done[-1:], data[:1]]
        else:
            return done


def test_faults_compose_in_their_order():
    pong = encode(Ping()).replace(b"ping", b"pong")
    blank = b"\n\r\n\n"
    assert exchange(["duplicate", "blank"], Ping())[0] == [blank + pong + pong]
    assert exchange(["blank", "duplicate"], Ping())[0] == [blank + pong + blank + pong]
    assert exchange(["late:1s", "late:2s"], Ping())[0] == [2.0, 1.0, pong]
    assert exchange(["delay:1s", "delay:2s"], Ping())[0] == [("before", 3.0), pong]
    assert exchange(["half", "close"], Ping(), Ping())[0] == [pong[: len(pong) // 2], Close()]
    assert exchange(["power-off#1"], Ping(), Ping())[0] == [pong, PowerOff()]
    assert exchange(["reboot:2s#2"], Ping(), Ping())[0] == [pong + pong, Reboot(2.0)]
    assert exchange(["stall@shutdown"], Shutdown(), Ping())[0] == []
    assert exchange(["garbage", "omit:type"], Ping())[0][0].endswith(b"{}\n")


def test_a_delayed_request_is_carried_out_later_and_a_late_one_at_once():
    simulator = GuestSimulator(faults=["delay:5s@mount", "late:5s@inject_secret"])
    session = faulty(simulator)
    session.receive_data(encode(MOUNT) + encode(InjectSecret("a", "v")))
    pause = session.next_event()
    assert (pause.seconds, pause.writing) == (5.0, False)
    assert simulator.mounts == ()
    session.resume(pause)
    for _ in range(2):
        session.reply(pending := session.next_event(), simulator.handle(pending.request))
    assert "a" in simulator.secrets
    session.data_sent(len(session.data_to_send()))
    assert session.next_order().writing


def test_lines_are_taken_only_when_those_before_are_written():
    """So the bounds of the session hold, whatever the faults are."""
    simulator = GuestSimulator(faults=["blank#1"])
    session = faulty(simulator, max_unsent=100)
    session.receive_data(encode(CustomRequest("x")) * 50)
    handled = 0
    while (pending := session.next_event()) is not NEED_DATA:
        session.reply(pending, simulator.handle(pending.request))
        session.data_to_send()
        handled += 1
    assert handled < 5
    assert not session.wants_data


@pytest.mark.parametrize("faults_", [[], ["blank"], ["late:9s"]])
def test_a_host_that_cannot_be_written_to(faults_):
    simulator = GuestSimulator(faults=["drop#9", *faults_])
    session = faulty(simulator)
    session.receive_data(encode(Ping()) * 2)
    session.reply(session.next_event(), simulator.handle(Ping()))
    order = session.next_order()
    session.data_to_send()
    session.write_failed(OSError())
    session.data_sent(10)
    if order is not None:
        session.resume(order)
    assert output(session) == [Close()]
    assert session.ended
    assert session.next_order() is None
    assert not session.push(Lifecycle("ready"))


def test_pushes_are_no_replies():
    simulator = GuestSimulator(faults=["blank", "stall#2"])
    session = faulty(simulator)
    assert session.push(Lifecycle("ready"))
    session.receive_data(encode(Ping()) * 2)
    session.reply(session.next_event(), simulator.handle(Ping()))
    assert [len(line.split(b":")) for line in output(session)[0].split(b"\n")[:4]] == [4, 1, 1, 1]
    session.reply(session.next_event(), simulator.handle(Ping()))
    assert output(session) == [b"\n\r\n\n"]
    assert not session.push(Lifecycle("ready"))
    assert "around <GuestSession" in repr(session)


def test_a_type_as_long_as_a_line_can_fail():
    type_ = "x" * (MAX_LINE_SIZE - 20)
    done, _, _ = exchange(["fail:no"], CustomRequest(type_))
    assert json.loads(done[0]) == ack("", "no")


@pytest.mark.parametrize("size", range(40))
def test_cut_at_every_byte(size):
    whole = exchange(["drop#9"], Ping(), Ping(), Ping())[0][0]
    actions, _, session = exchange([faults.Cut(size=size)], Ping(), Ping(), Ping())
    assert b"".join(action for action in actions if isinstance(action, bytes)) == whole[:size]
    assert session.ended is (size <= len(whole))


def test_swapping_the_last_reply_holds_it_for_ever():
    assert exchange(["swap"], Ping())[0] == []
    assert exchange(["swap#1"], Ping(), CustomRequest("a"), Ping())[0][0].count(b"\n") == 3


def test_a_stream_without_connections_never_closes():
    done, _, session = exchange(["close#1", "reset"], Ping(), Ping(), has_connections=False)
    assert not session.ended
    assert done == [encode(Ping()).replace(b"ping", b"pong")]  # what came with the end is lost with it
    session.receive_data(encode(Ping()))
    assert session.next_event().request == Ping()


def test_a_line_that_cannot_be_read_is_a_request_without_a_type():
    done, _, _ = exchange(["drop@#1", "fail:oh@#2"], b"x\n", Ping(), b"y\n")
    assert [json.loads(line) for line in done[0].splitlines()] == [PONG, ack("", "oh")]


# ------------------------------------------------------------------------------------------ over sockets

GARBAGE = "garbage line"

#: Faults → requests, what the host reads until the guest closes, and whether it closes by itself.
SEEN = {
    "": ([Ping(), MOUNT], [PONG, ack("mount")], False),
    "late:3s@ping": ([Ping(), MOUNT], [PONG, ack("mount")], False),
    "delay:3s@ping": ([Ping(), MOUNT], [PONG, ack("mount")], False),
    "stall@mount": ([Ping(), MOUNT, Ping()], [PONG], False),
    "drop@ping#1": ([Ping(), MOUNT, Ping()], [ack("mount"), PONG], False),
    "duplicate@ping": ([Ping(), MOUNT], [PONG, PONG, ack("mount")], False),
    "swap@ping": ([Ping(), MOUNT], [ack("mount"), PONG], False),
    "push:degraded:a: b@ping": ([Ping(), MOUNT], [TOLD, PONG, ack("mount")], False),
    "half@ping": ([MOUNT, Ping(), MOUNT], [ack("mount"), '{"type":'], False),
    "garbage@ping": ([Ping(), MOUNT], [GARBAGE, PONG, ack("mount")], False),
    "blank@ping": ([Ping(), MOUNT], ["", "", "", PONG, ack("mount")], False),
    "over-long@ping": ([Ping(), MOUNT], [MAX_LINE_SIZE, ack("mount")], False),
    "wrong-type": ([Ping(), MOUNT], [READY, PONG], False),
    "fail:exit status 32@mount": ([MOUNT, Ping()], [ack("mount", "exit status 32"), PONG], False),
    "deny:exit status 32@mount": ([MOUNT, Ping()], [ack("mount", "exit status 32"), PONG], False),
    "omit:restarts@get_health": (
        [GetHealth()],
        [
            {
                "type": "health",
                "payload": {"state": "ready", "agents": [{"name": "a", "running": True}], "uptime_seconds": 0},
            }
        ],
        False,
    ),
    "cut:20": ([Ping(), MOUNT], [PONG, '{"ty'], True),
    "close@ping": ([Ping(), MOUNT], [PONG], True),
    "power-off@ping": ([Ping(), MOUNT], [PONG], True),
    "hang-up": ([Ping()], [], True),
    "never-ready": (
        [GetHealth()],
        [{"type": "health", "payload": {"state": "booting", "uptime_seconds": 0}}],
        False,
    ),
    "slow-boot:9s": (
        [GetHealth()],
        [{"type": "health", "payload": {"state": "booting", "uptime_seconds": 0}}],
        False,
    ),
}


def understood(line):
    if len(line) > MAX_LINE_SIZE:
        return MAX_LINE_SIZE
    try:
        return json.loads(line)
    except UnicodeDecodeError:
        return GARBAGE
    except ValueError:
        return line.decode().strip("\r")


@pytest.mark.parametrize("text", SEEN)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_host_sees(kind, text):
    requests, seen, closes = SEEN[text]
    slept = []
    agents = [AgentStatus("a", running=True)] if "omit" in text else []
    simulator = GuestSimulator(faults=[text] if text else [], clock=lambda: 0.0, agents=agents)
    with running(kind, None, simulator, sleep=sleeper(kind, slept)) as guest, Host(guest.address) as host:
        with suppress(OSError):  # it may have closed before we have sent all
            host.send(*requests)
            if not closes:
                host.end()
        data = b""
        with suppress(ConnectionResetError):  # requests that it has not read when it closes
            data = host.rest()
    assert [understood(line) for line in data.removesuffix(b"\n").split(b"\n") if data] == seen
    if "late" in text:
        assert len(slept) == 1
        assert 0 < slept[0] <= 3.0  # what was left of the time, when the reply was there
    else:
        assert slept == ([3.0] if "3s" in text else [])
    if not closes:
        assert len(simulator.requests) == len(requests)  # whatever became of the replies


def sleeper(kind, slept):
    """A sleep that only takes note."""
    if kind == "blocking":
        return slept.append

    async def sleep(seconds):
        slept.append(seconds)

    return sleep


def test_every_fault_is_seen_somewhere():
    elsewhere = {"reset", "refuse", "reboot"}
    assert {text.partition(":")[0].partition("@")[0].partition("#")[0] for text in SEEN} | elsewhere == {"", *FAULTS}


@pytest.mark.parametrize("kind", KINDS)
def test_reset_is_a_reset(kind):
    with running(kind, None, GuestSimulator(faults=["reset#1"])) as guest:
        with pytest.raises((ConnectionResetError, BrokenPipeError)), Host(guest.address) as host:  # noqa: PT012
            host.send(Ping())
            host.rest()
        assert ask(guest.address, Ping()) == [PONG]


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_that_refuses_listens_later(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gate = Gate(kind)
    simulator = GuestSimulator(faults=["refuse:7s"])
    with running(kind, UnixSocket("g"), simulator, sleep=gate.sleep) as guest:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                Host(guest.address)
        gate.open()
        assert ask_patiently(guest.address, Ping()) == [PONG]
        assert gate.slept == [7.0]


class Gate:
    """A sleep that lasts until the test says so."""

    def __init__(self, kind):
        self.slept = []
        self._opened = threading.Event()
        self.sleep = self._blocking if kind == "blocking" else self._asyncio if kind == "asyncio" else self._trio

    def open(self):
        self._opened.set()

    def _blocking(self, seconds):
        self.slept.append(seconds)
        assert self._opened.wait(20)

    async def _asyncio(self, seconds):
        import asyncio

        await asyncio.to_thread(self._blocking, seconds)

    async def _trio(self, seconds):
        import trio

        await trio.to_thread.run_sync(self._blocking, seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reboot(kind):
    gate = Gate(kind)
    simulator = GuestSimulator(faults=["reboot:4s@mount#1"])
    with running(kind, None, simulator, sleep=gate.sleep) as guest:
        with Host(guest.address) as bystander, Host(guest.address) as host:
            bystander.send(Ping())
            assert bystander.reply() == PONG
            host.send(InjectSecret("a", "v"), SetConfig("c"), MOUNT)
            assert [host.reply() for _ in range(3)] == [ack("inject_secret"), ack("set_config"), ack("mount")]
            assert (host.rest(), bystander.rest()) == (b"", b"")
        with pytest.raises(OSError, match="refused"):
            Host(guest.address)
        gate.open()
        assert ask_patiently(guest.address, MOUNT) == [ack("mount")]
        assert gate.slept == [4.0]
    assert (simulator.secrets, simulator.config, len(simulator.mounts)) == ({}, "c", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reboot_in_mid_request(kind):
    with running(kind, None, GuestSimulator(faults=["drop@mount#1", "reboot@mount#1"])) as guest:
        assert ask(guest.address, MOUNT) == []
        assert ask_patiently(guest.address, MOUNT) == [ack("mount")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reboot_is_invisible_on_a_serial_port(kind, tmp_path, monkeypatch):
    """No end of the stream: the same connection goes on, without the half line (§8)."""
    monkeypatch.chdir(tmp_path)
    simulator = GuestSimulator(faults=["reboot@mount#1"])
    with running(kind, VirtioSerial("p"), simulator) as guest, Host(guest.address) as host:
        host.send(MOUNT)
        assert host.reply() == ack("mount")
        for attempt in range(200):
            host.send(b"\n", CustomRequest(f"sync:{attempt}"))
            if not host.is_silent(0.1):
                break
        assert host.reply()["payload"]["reply_to"].startswith("sync:")
    assert simulator.mounts == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["deny:no such share@mount#1", "fail:no such share@mount#1"])
def test_what_is_denied_is_not_carried_out(kind, text):
    """So a second try is the first mount; after `fail` it is a second one."""
    simulator = GuestSimulator(faults=[text])
    with running(kind, None, simulator) as guest:
        assert ask(guest.address, MOUNT) == [ack("mount", "no such share")]
        assert ask(guest.address, MOUNT) == [ack("mount")]
    assert len(simulator.mounts) == (1 if text.startswith("deny") else 2)
    assert simulator.requests == (MOUNT, MOUNT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_denied_shutdown_leaves_the_guest_up(kind):
    simulator = GuestSimulator(faults=["deny:busy@shutdown#1"])
    with running(kind, None, simulator) as guest:
        assert ask(guest.address, Shutdown(), Ping()) == [ack("shutdown", "busy"), PONG]
        assert ask(guest.address, Shutdown("now")) == [ack("shutdown")]
    assert simulator.shutdown_reason == "now"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["stall@shutdown#1", "half@shutdown#1"])
def test_a_guest_that_hangs_while_it_shuts_down(kind, text):
    """The connection stays open, and the guest goes on with the others, until the host that asked hangs up."""
    with running(kind, None, GuestSimulator(faults=[text])) as guest:
        with Host(guest.address) as host:
            host.send(Shutdown())
            sent = encode(Ack("shutdown", True)) if text.startswith("half") else b""
            assert host.read(len(sent) // 2) == sent[: len(sent) // 2]
            assert host.is_silent()
            assert ask(guest.address, Ping()) == [PONG]
            host.end()
            assert host.rest() == b""  # it closes, as with any host that sends no more
        assert ask(guest.address, Shutdown()) == [ack("shutdown")]
        guest.join()


def test_a_request_can_be_denied_late():
    done, simulator, _ = exchange(["deny:no@mount", "delay:1s@mount", "late:2s@mount"], MOUNT, Ping())
    assert done[:2] == [("before", 1.0), 2.0]
    assert [json.loads(line) for line in done[2].splitlines()] == [ack("mount", "no"), PONG]
    assert simulator.mounts == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_handler_is_not_asked_for_what_is_denied(kind):
    asked = []

    def handle(request):
        asked.append(request)
        return Pong()

    with running(kind, None, handle, faults=["deny:no@ping#1"]) as guest:
        assert ask(guest.address, Ping(), Ping()) == [ack("ping", "no"), PONG]
    assert asked == [Ping()]


@pytest.mark.parametrize("kind", KINDS)
def test_faults_of_a_plain_handler(kind):
    with running(kind, None, GuestSimulator().handle, faults=["drop@ping#1", faults.Duplicate(type="ping")]) as guest:
        assert ask(guest.address, Ping(), Ping()) == [PONG, PONG]


@pytest.mark.parametrize("kind", KINDS)
def test_closing_does_not_wait_for_a_fault(kind):
    """Nobody waits for the hour, on any side of a request, nor for the guest to listen."""
    for text in ("delay:3600s", "late:3600s", "refuse:3600s", "reboot:3600s", "stall"):
        with running(kind, None, GuestSimulator(faults=[text])) as guest:
            if text != "refuse:3600s":
                with Host(guest.address) as host:
                    host.send(Ping())
                    assert host.is_silent() or text.startswith("reboot")


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_guest(kind):
    simulator = GuestSimulator(types=OLD_TYPES)
    with running(kind, None, simulator) as guest:
        assert ask(guest.address, Ping(), GetHealth(), InjectSecret("a", "v"), Shutdown()) == [
            PONG,
            ack("get_health", "unknown message type: get_health"),
            ack("inject_secret"),
            ack("shutdown"),
        ]


def test_one_text_is_not_several_faults():
    with pytest.raises(TypeError, match=r"^faults takes several strings"):
        FaultPlan("late:1s@ping")


def test_the_longest_wait_of_a_fault():
    assert faults.Delay(seconds=1_000_000_000).seconds == 1_000_000_000


def test_of_several_types_that_may_be_meant_the_nearest_is_named():
    with pytest.warns(UserWarning, match="did you mean 'mount'") as caught:
        faults._warn_of_type(faults.Delay(seconds=1, type="moun"), "moun", ("mounts", "mount"))
    assert len(caught) == 1
