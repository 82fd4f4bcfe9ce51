"""A session to which faults happen, without a server: what it hands out, and what becomes of the session inside."""

import json
from itertools import product

import pytest

from guest.test_faults import Clock
from stereos_proto import (
    MAX_LINE_SIZE,
    NEED_DATA,
    Ack,
    CustomRequest,
    GuestSession,
    Health,
    Lifecycle,
    Ping,
    Pong,
    Shutdown,
    encode,
)
from stereos_proto_io.guest._faulty_session import Denied, FaultySession
from stereos_proto_io.guest._orders import Close, Pause, PowerOff, Reboot
from stereos_proto_io.guest.faults import FaultPlan


def session(*texts, has_connections=True, ports=None, **options):
    return FaultySession(GuestSession(has_connections=has_connections), FaultPlan(texts), ports, **options)


def asked(faulty, request, reply):
    """Let a host ask, and a handler answer."""
    faulty.receive_data(encode(request))
    faulty.reply(faulty.next_event(), reply)


def written(faulty):
    """All bytes that leave now."""
    data = b""
    while part := bytes(faulty.data_to_send()):
        data += part
        faulty.data_sent(len(part))
    return data


def test_a_shutdown_is_a_power_off():
    faulty = session("drop@mount")
    asked(faulty, Shutdown(), Ack("shutdown", True))
    assert not faulty.shut_down
    assert written(faulty) == encode(Ack("shutdown", True))
    assert faulty.shut_down is True
    assert faulty.next_order() == PowerOff()
    assert faulty.ended


def test_a_cut_counts_what_the_guest_writes_and_not_the_muxer():
    faulty = session("cut:16", ports={1024})
    faulty.receive_data(b"CONNECT 1024\n" + encode(Ping()))
    faulty.reply(faulty.next_event(), Pong())
    assert written(faulty) == b"OK 1073741824\n" + encode(Pong())[:16]
    assert faulty.next_order() == Close()


def test_a_failed_write_ends_the_session_inside():
    faulty = session("drop@mount")
    asked(faulty, Ping(), Pong())
    assert faulty.wants_write
    faulty.write_failed(OSError(32, "Broken pipe"))
    assert not faulty.wants_write
    assert not faulty.wants_data
    assert faulty._session.ended
    assert not faulty.ended
    assert faulty.next_order() == Close()
    assert faulty.ended


def test_a_failed_write_changes_nothing_where_there_are_no_connections():
    faulty = session("drop@mount", has_connections=False)
    asked(faulty, Ping(), Pong())
    faulty.write_failed(OSError(5, "Input/output error"))
    assert faulty.next_order() is None
    assert written(faulty) == encode(Pong())


def test_closing_ends_the_session_inside():
    faulty = session("drop@mount")
    asked(faulty, Ping(), Pong())
    assert faulty.wants_write
    faulty.close()
    assert faulty.ended
    assert faulty._session.ended
    assert not faulty.wants_write
    assert not faulty.wants_data
    assert faulty.next_order() is None


@pytest.mark.parametrize(
    ("text", "order"), [("close@ping", Close()), ("power-off@ping", PowerOff()), ("reboot:2s@ping", Reboot(2.0))]
)
def test_the_last_order_ends_the_session_inside(text, order):
    faulty = session(text)
    asked(faulty, Ping(), Pong())
    assert faulty.next_order() is None
    assert written(faulty) == encode(Pong())
    assert faulty.next_order() == order
    assert faulty.ended
    assert faulty._session.ended


@pytest.mark.parametrize("size", [0, 1, 15, 16])
def test_a_connection_is_cut_after_so_many_bytes(size):
    """The line of a pong has 16."""
    faulty = session(f"cut:{size}")
    asked(faulty, Ping(), Pong())
    assert len(encode(Pong())) == 16
    assert written(faulty) == encode(Pong())[:size]
    assert faulty.next_order() == Close()


def test_a_cut_that_does_not_come_to_it():
    faulty = session("cut:17")
    asked(faulty, Ping(), Pong())
    assert written(faulty) == encode(Pong())
    assert faulty.next_order() is None


def test_closing_a_stream_without_connections_begins_anew():
    faulty = session("close@ping", has_connections=False)
    asked(faulty, Ping(), Pong())
    assert written(faulty) == encode(Pong())
    assert faulty.next_order() is None
    asked(faulty, Ping(), Pong())
    assert written(faulty) == encode(Pong())


def test_what_a_fault_leaves_out_is_left_as_it_was_otherwise():
    faulty = session("omit:ok")
    asked(faulty, Shutdown(), Ack("shutdown", False, "später"))
    line = written(faulty)
    assert json.loads(line) == {"type": "ack", "payload": {"reply_to": "shutdown", "error": "später"}}
    assert "später".encode() in line


def test_a_refusal_of_a_type_as_long_as_a_line_is_cut():
    faulty = session(f"fail:{'x' * 2000}")
    asked(faulty, CustomRequest("t" * (MAX_LINE_SIZE - 100)), Ack("", True))
    assert json.loads(written(faulty)) == {"type": "ack", "payload": {"reply_to": "", "ok": False, "error": "x" * 1000}}


@pytest.mark.parametrize(("digits", "taken"), [("1024", True), ("0" * 7 + "1024", True), ("0" * 8 + "1024", False)])
def test_the_longest_handshake_of_a_muxer(digits, taken):
    faulty = session(ports={1024})
    faulty.receive_data(f"CONNECT {digits}\n".encode() + encode(Ping()))
    assert (written(faulty) == b"OK 1073741824\n") is taken
    assert (faulty.next_order() is None) is taken
    assert faulty.push(Lifecycle("ready")) is taken


def test_closing_a_stream_without_connections_forgets_what_was_received():
    """Also where nothing is to be written before."""
    faulty = session("drop@ping", "close@ping", has_connections=False)
    faulty.receive_data(encode(Ping()) + encode(CustomRequest("later")))
    faulty.reply(faulty.next_event(), Pong())
    assert written(faulty) == b""
    assert faulty.next_event() is NEED_DATA


def waited(faulty, clock):
    """When each line leaves, in seconds by the clock; and the last order."""
    done = []
    while True:
        order = faulty.next_order()
        if isinstance(order, Pause):
            assert order.writing
            clock.now += order.seconds
            faulty.resume(order)
        elif order is not None:
            return [*done, order]
        elif line := bytes(faulty.data_to_send()):
            faulty.data_sent(len(line))
            done.append((line, clock.now - 1000.0))
        else:
            return done


@pytest.mark.parametrize(
    ("texts", "times"),
    [
        (["late:5s"], [5, 6, 7]),
        (["late:5s@ping#1"], [5, 5, 5]),
        (["late:5s@ping#2"], [2, 6, 6]),
        (["late:1s#1", "late:3s#2"], [2, 4, 4]),  # the three came at 0, 1 and 2, and are answered at 2
        (["late:0s", "late:1s#1"], [2, 2, 2]),
        (["late:2s#1", "late:3s#1"], [5, 5, 5]),
    ],
)
def test_a_late_reply_leaves_so_long_after_its_request_came(texts, times):
    """So requests that are sent together are answered together."""
    clock = Clock()
    faulty = session(*texts, clock=clock)
    pending = []
    for moment in range(3):
        clock.now = 1000.0 + moment
        faulty.receive_data(encode(Ping()))
        pending.append(faulty.next_event())
    for request in pending:
        faulty.reply(request, Pong())
    assert waited(faulty, clock) == [(encode(Pong()), time) for time in times]


def test_of_a_flight_with_one_latency_nothing_adds_up():
    clock = Clock()
    faulty = session("late:0.2s@ping", clock=clock)
    for _ in range(5):
        asked(faulty, Ping(), Pong())
    assert [time for _, time in waited(faulty, clock)] == [pytest.approx(0.2)] * 5


def test_a_request_that_is_delayed_comes_when_it_is_carried_out():
    clock = Clock()
    faulty = session("delay:3s", "late:2s", clock=clock)
    faulty.receive_data(encode(Ping()))
    pause = faulty.next_event()
    clock.now += pause.seconds
    faulty.resume(pause)
    faulty.reply(faulty.next_event(), Pong())
    assert waited(faulty, clock) == [(encode(Pong()), 5.0)]


def test_the_refusal_of_a_line_that_cannot_be_read_may_be_late():
    clock = Clock()
    faulty = session("late:2s@", clock=clock)
    faulty.receive_data(b"nonsense\n" + encode(Ping()))
    faulty.next_event()
    faulty.reply(faulty.next_event(), Pong())
    assert [time for _, time in waited(faulty, clock)] == [2.0, 2.0]


@pytest.mark.parametrize("text", ["stall@shutdown", "half@shutdown"])
@pytest.mark.parametrize("has_connections", [True, False])
def test_a_guest_may_hang_while_it_shuts_down(text, has_connections):
    faulty = session(text, has_connections=has_connections)
    asked(faulty, Shutdown(), ack := Ack("shutdown", True))
    assert written(faulty) == (b"" if "stall" in text else encode(ack)[: len(encode(ack)) // 2])
    assert faulty.next_order() is None
    assert not faulty.ended
    assert faulty.wants_data  # or nobody would notice that the host goes
    faulty.receive_data(encode(Ping()))
    assert faulty.next_event() is NEED_DATA
    faulty.receive_eof()
    assert faulty.next_order() == (Close() if has_connections else None)
    assert faulty.ended is has_connections
    assert not faulty.push(Lifecycle("shutdown"))


def test_a_guest_that_hangs_may_reboot():
    faulty = session("stall@shutdown", has_connections=False)
    asked(faulty, Shutdown(), Ack("shutdown", True))
    assert written(faulty) == b""
    faulty.restart()
    asked(faulty, Ping(), Pong())
    assert written(faulty) == encode(Pong())


@pytest.mark.parametrize(("text", "order"), [("power-off@shutdown", PowerOff()), ("reboot@shutdown", Reboot(0.0))])
def test_a_guest_that_falls_silent_may_lose_its_power(text, order):
    faulty = session("stall@shutdown", text)
    asked(faulty, Shutdown(), Ack("shutdown", True))
    assert written(faulty) == b""
    assert faulty.next_order() == order


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        (["swap"], "badc"),  # the fifth waits for a sixth
        (["swap#1"], "bacde"),
        (["swap#2"], "acbde"),
        (["swap#1", "swap#2"], "bacde"),
        (["swap#1", "swap#3"], "badce"),
        (["swap", "drop#2"], "caed"),
        (["swap", "drop#1"], "cbed"),
        (["swap#5"], "abcd"),
    ],
)
def test_swapped_replies_change_their_places_in_pairs(texts, order):
    faulty = session(*texts)
    for name in "abcde":
        asked(faulty, CustomRequest(name), Ack(name, True))
    assert "".join(json.loads(line)["payload"]["reply_to"] for line in written(faulty).splitlines()) == order


# ----------------------------------------------------------------------------------- faults that meet at one request

#: The line of the reply to a ping → how `specified` calls it.
CALLED = {
    encode(Pong()): "pong",
    encode(Health("ready")): "health",
    encode(Ack("ping", False, "no")): "refusal",
    encode(Ack("ping", False, "never")): "denial",
    encode(Lifecycle("degraded")): "push",
    b"{}\n": "nothing in it",
    b"\n": "empty",
    b"\r\n": "empty",
}

#: The faults of a request, each at the first one, and with arguments whose traces differ.
AT_ONE = [
    "delay:1s#1",
    "late:2s#1",
    "stall#1",
    "drop#1",
    "duplicate#1",
    "swap#1",
    "push:degraded#1",
    "half#1",
    "garbage#1",
    "blank#1",
    "over-long#1",
    "wrong-type#1",
    "fail:no#1",
    "deny:never#1",
    "omit:type#1",
    "close#1",
    "power-off#1",
    "reboot:3s#1",
]


def named(line):
    """How `specified` calls a line, which may be half of one."""
    if len(line) > 1000:
        whole = "over-long" if b'"type"' in line else "less"
        return whole if line.endswith(b"\n") else f"half of {whole}"
    halves = {whole[: len(whole) // 2]: name for whole, name in CALLED.items() if whole.strip()}
    if line.endswith(b"\n"):
        return "garbage" if line.startswith(b"[") else CALLED.get(line, "less")
    return f"half of {halves.get(line, 'less')}"


def happened(texts):
    """What becomes of two pings: who is asked when, what leaves, the last order, and what is unused."""
    plan = FaultPlan(texts)
    faulty = FaultySession(GuestSession(), plan, clock=Clock())
    faulty.receive_data(encode(Ping()) * 2)
    done = []
    while (event := faulty.next_event()) is not NEED_DATA:
        if isinstance(event, Pause):
            done.append(f"delayed {event.seconds:g}")
            faulty.resume(event)
            continue
        denied = isinstance(event, Denied)
        done.append("denied" if denied else "carried out")
        pending = event.pending if denied else event
        faulty.reply(pending, Ack("ping", False, event.text) if denied else Pong())
    while True:
        order = faulty.next_order()
        if isinstance(order, Pause):
            done.append(f"late {order.seconds:g}")
            faulty._clock.now += order.seconds
            faulty.resume(order)
        elif order is not None:
            done.append(order)
        elif data := bytes(faulty.data_to_send()):
            done.extend(named(line) for line in data.splitlines(keepends=True))
            faulty.data_sent(len(data))
        else:
            return done, [str(fault) for fault in plan.unused]


def specified(texts):
    """The same, by what the pages say. Written apart from the code."""
    names = [text.partition("#")[0].partition(":")[0] for text in texts]

    def only(*alternatives):
        """Which of the alternatives happens: the last one of the list."""
        return next((name for name in reversed(names) if name in alternatives), None)

    content = only("over-long", "wrong-type", "fail", "deny")
    amount = only("stall", "drop", "half")
    end = only("close", "power-off", "reboot")
    unused = {name for name in ("over-long", "wrong-type", "fail", "deny") if name != content}
    unused |= {name for name in ("stall", "drop", "half") if name != amount}
    unused |= {name for name in ("close", "power-off", "reboot") if name != end}
    unused |= {None: set(), "half": {"duplicate"}}.get(
        amount, {"over-long", "wrong-type", "fail", "omit", "duplicate"} | ({"swap"} if amount == "drop" else set())
    )

    asked = ["delayed 1"] if "delay" in names else []
    asked += ["denied" if content == "deny" else "carried out", "carried out"]
    reply = {None: "pong", "over-long": "over-long", "wrong-type": "health", "fail": "refusal", "deny": "denial"}[
        content
    ]
    if "omit" in names:
        reply = "less" if content else "nothing in it"
    own = {None: [reply], "half": [f"half of {reply}", "SILENCE"], "drop": [], "stall": ["SILENCE"]}[amount]
    before = {"late": ["late 2"], "push": ["push"], "garbage": ["garbage"], "blank": ["empty"] * 3}
    for name in names:
        if name == "duplicate" and name not in unused:
            own = own * 2
        own = before.get(name, []) + own
    if end:
        own = [*own, {"close": Close(), "power-off": PowerOff(), "reboot": Reboot(3.0)}[end]]
    swapped = "swap" in names and "swap" not in unused
    written, silent = [], False
    for step in ["pong", *own] if swapped else [*own, "pong"]:
        silent = silent or step == "SILENCE"
        if not isinstance(step, str):
            written.append(step)
            break
        if not silent:
            written.append(step)
    return asked + written, [text for text, name in zip(texts, names, strict=True) if name in unused]


@pytest.mark.parametrize("first", AT_ONE)
@pytest.mark.parametrize("second", AT_ONE)
def test_no_fault_silently_undoes_another(first, second):
    """All pairs, in both orders. One that cannot happen beside the other is reported as unused."""
    texts = [first] if first == second else [first, second]
    assert happened(texts) == specified(texts)


@pytest.mark.parametrize("last", AT_ONE)
def test_three_faults_that_meet(last):
    for texts in product(AT_ONE, AT_ONE, [last]):
        if len({*texts}) == 3 and "over-long#1" not in texts:
            assert happened(texts) == specified(texts), texts
