"""`PollClient` and `LoopClient` in this process, with a loop and a clock that are turned by hand.

`test_loops.py` puts the clients of the examples through all cases of `check_client`, each in its own event loop.
"""

import errno
import gc
import selectors
import socket
import struct
from collections import deque
from contextlib import closing, contextmanager, nullcontext, suppress

import pytest
from typing_extensions import override

from ctrl_c import Interrupting
from interrupts import interrupt
from stereos_proto import (
    NEED_DATA,
    Ack,
    CallDone,
    ConnectError,
    ConnectionLost,
    Health,
    Lifecycle,
    Mount,
    NotificationReceived,
    NotReady,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    RequestTimeout,
    Role,
    SessionEnded,
    TaskDone,
    encode,
)
from stereos_proto.dialogues import Connect, Send, Sleep
from stereos_proto_io import TCP, Dial, HybridVsock, UnixSocket
from stereos_proto_io.driver import READ, WRITE, LoopClient, PollClient, _dialling, _loop_client, _poll_client
from stereos_proto_io.testing import simulated_guest

from .guests import LONG, MOUNT, PING, PONG
from .harness import PATIENCE


class Loop:
    """What a loop of callbacks does for a `PollClient`. It waits for descriptors only; its clock stands still."""

    def __init__(self, address, **options):
        self.now = 100.0
        self.client = PollClient(address, clock=lambda: self.now, **options)
        self.selector = selectors.DefaultSelector()
        self.events = []
        self.masks = []

    def turn(self, patience=PATIENCE):
        """A whole turn, as the module's docstring has it. Returns the events."""
        before = len(self.events)
        self.pull()
        if len(self.events) == before and self.selector.get_map():
            for key, mask in self.selector.select(patience):
                self.client.ready(key.fileobj, mask)
            self.pull()
        return self.events[before:]

    def pull(self):
        self.events += self.client.events()
        self.client.expire()
        self.events += self.client.events()
        for stream, mask in self.client.changes():
            self.masks.append(mask)
            with suppress(KeyError):
                self.selector.unregister(stream)
            if mask:
                self.selector.register(stream, mask)

    def run(self, is_over, turns=10_000):
        for _ in range(turns):
            if is_over():
                return
            self.turn()
        pytest.fail("it takes too many turns")

    def wait(self, seconds):
        """Let time pass, but nothing be ready."""
        self.now += seconds
        before = len(self.events)
        self.pull()
        return self.events[before:]

    def close(self):
        self.client.close()
        self.pull()
        assert not self.selector.get_map(), "it is still watched"
        assert self.client._dropped == []
        self.selector.close()


@contextmanager
def looped(address, **options):
    loop = Loop(address, **options)
    try:
        yield loop
    finally:
        loop.close()


@contextmanager
def listening(family=socket.AF_INET, name=("127.0.0.1", 0), backlog=8):
    with socket.socket(family) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(name)
        listener.listen(backlog)
        yield listener


@contextmanager
def connected(**options):
    """A loop whose client has a connection, and the guest's end of it."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    with theirs, looped(Dial(lambda: ours), **options) as loop:
        task = loop.client.connect()
        loop.run(lambda: task.done)
        task.result()
        loop.events.clear()
        yield loop, theirs


# -- asking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [TCP("127.0.0.1", 0), "unix", "hybrid"])
def test_requests_dialogues_and_notifications(address, tmp_path):
    places = {"unix": UnixSocket(tmp_path / "guest"), "hybrid": HybridVsock(tmp_path / "guest", 1024)}
    with simulated_guest(places.get(address, address)) as guest, looped(guest.address) as loop:
        call = loop.client.request(Ping(), context="mine")
        loop.run(lambda: call.done)
        assert (call.result(), call.context) == (Pong(), "mine")
        wait, report = loop.client.wait_ready(), loop.client.provision(ProvisionPlan([MOUNT], config="x"))
        loop.run(lambda: wait.done and report.done)
        assert isinstance(wait.result(), Health)
        assert report.result().ok
        shutdown = loop.client.shutdown()
        loop.run(lambda: any(isinstance(event, SessionEnded) for event in loop.events))
        assert shutdown.result() in (None, Ack("shutdown", True))
        assert [event for event in loop.events if isinstance(event, TaskDone)] == [
            *map(TaskDone, (wait, report, shutdown))
        ]
        assert CallDone(call) in loop.events


def test_a_stream_is_told_when_its_mask_changes_and_closed_when_it_is_let_go():
    with connected() as (loop, theirs):
        assert loop.masks[-1] == READ
        stream = loop.client._stream
        call = loop.client.request(LONG)
        loop.turn(0)
        assert loop.masks[-1] == READ | WRITE
        received = b""
        while len(received) < len(encode(LONG)):
            loop.turn(0)
            received += theirs.recv(1 << 20)
        assert received == encode(LONG)
        loop.turn(0)
        assert loop.masks[-1] == READ
        theirs.sendall(encode(Ack("set_config", True)))
        loop.run(lambda: call.done)
        loop.client.close()
        assert theirs.recv(1) == b"", "the guest sees the end at once"
        changes = loop.client.changes()
        assert next(changes) == (stream, 0)
        assert stream.fileno() != -1, "it is closed once the loop has let go of it"
        loop.selector.unregister(stream)
        assert [*changes] == []
        assert stream.fileno() == -1
        loop.client.close()


def test_a_stream_that_it_has_let_go_of_is_ignored():
    with connected() as (loop, theirs):
        stale, other = loop.client._stream, socket.socketpair()
        for stream in other:
            loop.client.ready(stream, READ | WRITE)
            stream.close()
        theirs.sendall(PONG)
        loop.client.close()
        loop.client.ready(stale, READ | WRITE)
        assert [type(event) for event in loop.client.events()] == [SessionEnded]


def test_ready_for_writing_alone_reads_nothing():
    with connected() as (loop, theirs):
        call = loop.client.request(Ping())
        loop.pull()
        theirs.sendall(PONG)
        loop.client.ready(loop.client._stream, WRITE)
        assert loop.client.next_event() is NEED_DATA
        loop.client.ready(loop.client._stream, READ)
        assert loop.client.next_event() == CallDone(call)
        loop.client.ready(loop.client._stream, READ)  # for nothing
        assert loop.client.next_event() is NEED_DATA


@pytest.mark.parametrize("how", ["end", "reset"])
def test_the_guest_goes(how):
    with listening() as listener, looped(TCP(*listener.getsockname())) as loop:
        ping, mount = loop.client.request(Ping()), loop.client.request(MOUNT)
        loop.run(lambda: ping.sent and mount.sent)
        guest, _ = listener.accept()
        with guest:
            assert guest.recv(1 << 16).startswith(PING)
            if how == "reset":
                guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        loop.run(lambda: ping.done and mount.done)
        assert (type(ping.outcome), type(mount.outcome)) == (ConnectionLost, OutcomeUnknown)
        assert ("closed the connection" in str(ping.outcome)) == (how == "end")
        assert ("reset by peer" in str(ping.outcome)) == (how == "reset")
        assert [type(event) for event in loop.events] == [CallDone, CallDone, SessionEnded]
        loop.pull()
        assert not loop.selector.get_map()
        assert loop.client.next_deadline() is None


def test_a_write_that_fails_settles_what_was_not_sent():
    """It is told in the same pull of events, and what was written before may still be answered."""
    with connected() as (loop, theirs):
        ping = loop.client.request(Ping())
        loop.pull()
        theirs.sendall(PONG)
        loop.client._stream.shutdown(socket.SHUT_WR)
        mount = loop.client.request(MOUNT)
        assert [*loop.client.events()] == [CallDone(mount)]
        assert (type(mount.outcome), mount.sent) == (ConnectionLost, False)
        loop.run(lambda: ping.done)
        assert ping.result() == Pong()


def test_what_is_asked_is_written_before_the_loop_is_told_what_to_watch():
    with connected() as (loop, theirs):
        loop.client.request(Ping())
        list(loop.client.changes())
        assert theirs.recv(100) == PING


# -- dialling --------------------------------------------------------------------------------------------------


def test_a_stream_that_is_there_at_once_is_used_at_once():
    ours, theirs = socket.socketpair()
    with theirs, looped(Dial(lambda: ours)) as loop:
        loop.client.request(Ping())
        assert [*loop.client.events()] == []
        assert loop.client.is_connected
        assert theirs.recv(100) == PING


def test_a_dial_that_is_ready_is_looked_at_before_time_is(tmp_path):
    path = tmp_path / "guest"
    with listening(socket.AF_UNIX, str(path)) as listener, looped(HybridVsock(path, 1024)) as loop:
        loop.client.connect()
        loop.pull()
        guest, _ = listener.accept()
        with guest:
            guest.sendall(b"OK 1073\n")
            ((key, mask),) = loop.selector.select(PATIENCE)
            loop.client.ready(key.fileobj, mask)
            assert loop.client.is_connected


def failure(loop, **options):
    task = loop.client.connect(**options)
    loop.run(lambda: task.done)
    assert isinstance(task.error, ConnectError)
    return task.error


def test_nobody_listens():
    with listening() as listener:
        address = TCP(*listener.getsockname())
    with looped(address) as loop:
        call = loop.client.request(Ping())
        loop.run(lambda: call.done)
        assert str(call.outcome).startswith(f"ping was not sent: cannot connect to {address}: nobody listens")
        assert "nobody listens there yet" in str(failure(loop))


async def later():
    """A dial that has to be awaited."""


@pytest.mark.parametrize(
    ("dial", "words"),
    [
        (later, "has to be awaited, and this client does not await"),
        (lambda: 1 / 0, "its dial raised ZeroDivisionError"),
        (lambda: None, "returned None instead of a socket or a stream"),
    ],
)
def test_a_dial_of_ones_own_that_gives_no_stream(dial, words):
    with looped(Dial(dial)) as loop:
        assert words in str(failure(loop))
        gc.collect()


def test_an_address_that_this_system_cannot_connect_to(monkeypatch):
    def refuse(_address, _found):
        raise ConnectError("no such family", retryable=False)

    monkeypatch.setattr(_poll_client, "attempts", refuse)
    with looped(UnixSocket("guest")) as loop:
        assert str(failure(loop)).startswith("no such family")


def test_a_dial_ends_at_its_deadline(tmp_path):
    with listening(socket.AF_UNIX, str(tmp_path / "guest")), looped(HybridVsock(tmp_path / "guest", 1024)) as loop:
        task = loop.client.connect(timeout=5)
        loop.pull()
        assert loop.client.next_deadline() == 105.0
        assert loop.wait(4.9) == []
        assert TaskDone(task) in loop.wait(0.1)
        assert task.error.timed_out
        assert loop.client.next_deadline() is None


def test_a_handshake_ends_by_itself(tmp_path):
    with listening(socket.AF_UNIX, str(tmp_path / "guest")), looped(HybridVsock(tmp_path / "guest", 1024)) as loop:
        call = loop.client.request(Ping())
        loop.pull()
        assert loop.client.next_deadline() == 105.0
        assert loop.wait(4.9) == []
        assert CallDone(call) in loop.wait(0.1)
        assert isinstance(call.outcome, ConnectionLost)
        assert "no answer" in str(call.outcome)


def test_a_dial_without_a_time_takes_ten_seconds(monkeypatch):
    monkeypatch.setattr(_poll_client, "begin_lookup", lambda host, port, tell: tell([(socket.AF_UNIX, "\0nobody")] * 2))
    monkeypatch.setattr(_dialling.socket.socket, "connect_ex", lambda sock, target: errno.EINPROGRESS)
    with looped(TCP("a-name.invalid", 1024)) as loop:
        call = loop.client.request(Ping())
        loop.turn()
        for _ in range(2):
            assert loop.client.next_deadline() == loop.now + _dialling.ATTEMPT_DELAY
            assert loop.wait(_dialling.ATTEMPT_DELAY) == []
        assert loop.client.next_deadline() == 110.0
        assert loop.wait(9.4) == []
        assert CallDone(call) in loop.wait(0.1)


@pytest.mark.parametrize("limit", [float("inf"), 60])
def test_who_has_more_time_than_a_dial_waits_for_the_next(limit, monkeypatch):
    """A dial without a deadline ends after ten seconds."""
    monkeypatch.setattr(_dialling.socket.socket, "connect_ex", lambda sock, target: errno.EINPROGRESS)
    with looped(TCP("127.0.0.1", 1024)) as loop:
        call = loop.client.request(Ping())
        loop.pull()
        task = loop.client.connect(timeout=limit)
        for _ in range(50):
            loop.wait(0.5)
        assert (task.done, call.done) == (False, False)
        assert loop.client.next_deadline() is not None


def test_the_deadline_of_a_request_comes_before_that_of_the_dial(tmp_path):
    with listening(socket.AF_UNIX, str(tmp_path / "guest")), looped(HybridVsock(tmp_path / "guest", 1024)) as loop:
        call = loop.client.request(Ping(), timeout=1)
        loop.pull()
        assert loop.client.next_deadline() == 101.0
        assert loop.wait(1) == [CallDone(call)]
        assert (type(call.outcome), call.sent) == (RequestTimeout, False)
        assert loop.client.next_deadline() > 101.0


def test_what_comes_with_the_last_preamble_is_not_lost(tmp_path):
    path = tmp_path / "guest"
    with listening(socket.AF_UNIX, str(path)) as listener, looped(HybridVsock(path, 1024)) as loop:
        task = loop.client.connect()
        loop.pull()
        guest, _ = listener.accept()
        with guest:
            assert guest.recv(100) == b"CONNECT 1024\n"
            guest.sendall(b"OK 1073\n" + encode(Lifecycle("ready")))
            loop.run(lambda: task.done and len(loop.events) > 1)
            assert NotificationReceived(Lifecycle("ready")) in loop.events


@pytest.mark.parametrize("when", ["dialling", "connected"])
def test_closing_while_it_dials(when, tmp_path):
    path = tmp_path / "guest"
    with listening(socket.AF_UNIX, str(path)) as listener, looped(HybridVsock(path, 1024)) as loop:
        call = loop.client.request(Ping())
        loop.pull()
        guest, _ = listener.accept()
        with guest:
            if when == "connected":
                guest.sendall(b"OK 1073\n")
                loop.run(lambda: loop.client.is_connected)
            loop.client.close()
            assert CallDone(call) in loop.turn()
            assert not loop.selector.get_map()
            received = b"".join(iter(lambda: guest.recv(100), b""))
            assert received == b"CONNECT 1024\n" + PING * (when == "connected")
        assert loop.client.next_deadline() is None


def test_the_next_place_is_tried_while_one_is_silent(monkeypatch):
    """A dial to a listener whose queue is full stays silent."""
    with listening(backlog=0) as full, listening() as listener, socket.socket() as filler:
        filler.connect(full.getsockname())
        found = [(socket.AF_INET, full.getsockname()), (socket.AF_INET, listener.getsockname())]
        monkeypatch.setattr(_dialling, "lookup", lambda host, port: found)
        with looped(TCP("a-name.invalid", 1024)) as loop:
            task = loop.client.connect()
            loop.run(lambda: loop.client._dialler is not None)
            if loop.client._dialler._connecting:
                loop.pull()
                assert loop.client.next_deadline() == loop.now + _dialling.ATTEMPT_DELAY
                loop.wait(_dialling.ATTEMPT_DELAY)
            loop.run(lambda: task.done)
            task.result()


# -- names -----------------------------------------------------------------------------------------------------


def test_a_name_is_looked_up_in_a_thread():
    with listening() as listener, looped(TCP("localhost", listener.getsockname()[1])) as loop:
        task = loop.client.connect()
        loop.pull()
        assert loop.client._lookup is not None
        loop.run(lambda: task.done)
        task.result()
        assert loop.client._lookup is None


def test_a_name_that_is_unknown(monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(_dialling, "lookup", unknown)
    with looped(TCP("no-such-name.invalid", 1024)) as loop:
        assert "no-such-name.invalid" in str(failure(loop))


@pytest.mark.parametrize("how", ["its time is over", "close", "the thread cannot start"])
def test_a_name_that_is_not_found_in_time(how, monkeypatch):
    tell = []

    def begin(host, port, told):
        if how == "the thread cannot start":
            raise RuntimeError("can't start new thread")
        tell.append(told)

    monkeypatch.setattr(_poll_client, "begin_lookup", begin)
    with looped(TCP("slow-name.invalid", 1024)) as loop:
        task = loop.client.connect(timeout=3)
        loop.pull()
        if how == "the thread cannot start":
            assert "can't start new thread" in str(task.error)
        elif how == "close":
            loop.client.close()
            assert TaskDone(task) in loop.turn()
        else:
            assert loop.client.next_deadline() == 103.0
            assert loop.wait(2.9) == []
            assert TaskDone(task) in loop.wait(0.1)
            assert "the name slow-name.invalid was not looked up in time; see" in str(task.error)
            assert task.error.timed_out
        assert not loop.selector.get_map()
        assert loop.client.next_deadline() is None
        for told in tell:
            told([])  # it comes to an end by itself
    gc.collect()


# -- loops of callbacks ------------------------------------------------------------------------------------------


class Callbacks(LoopClient):
    """A client whose loop writes down what it is asked for."""

    def __init__(self, address, **options):
        self.now = 100.0
        super().__init__(address, clock=lambda: self.now, **options)
        self.watched, self.timers, self.soon, self.told = {}, [], deque(), []

    def watch(self, stream, mask):
        self.watched.pop(stream, None)
        if mask:
            self.watched[stream] = mask

    def set_timer(self, seconds):
        self.timers.append(seconds)

    def call_soon(self, function):
        self.soon.append(function)

    def on_event(self, event):
        self.told.append(event)


@contextmanager
def with_callbacks():
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    client = Callbacks(Dial(lambda: ours))
    with theirs:
        yield client, theirs
        client.close()
        turns(client)
        assert client.watched == {}


def turns(client):
    while client.soon:
        client.soon.popleft()()


def test_a_distant_deadline_is_one_that_every_loop_can_wait_for():
    def sleeps():
        yield Sleep(1e10)

    loop = Loop(Dial(lambda: socket.socketpair()[0]))
    with closing(loop.client):
        loop.client.run(sleeps())
        loop.turn(0)
        assert loop.client.next_deadline() == loop.now + 86_400


def test_a_turn_is_asked_for_once():
    with with_callbacks() as (client, theirs):
        calls = [client.request(Ping()), *client.request_many([Ping(), Ping()])]
        task = client.connect()
        assert len(client.soon) == 1
        assert client.watched == {}, "nothing is done inside of the verbs"
        turns(client)
        assert [*client.watched.values()] == [READ]
        assert client.told[-1] == TaskDone(task)
        client.request(MOUNT)
        assert len(client.soon) == 1
        turns(client)
        theirs.sendall(PONG * 3)
        client.on_ready(*client.watched.popitem())
        assert client.told[-3:] == [*map(CallDone, calls)]


def test_a_loop_that_refuses_a_turn_is_asked_for_the_next_one():
    """asyncio's, in debug mode, refuses one that is asked for in another thread."""
    with with_callbacks() as (client, theirs):
        client.call_soon = interrupt
        with pytest.raises(KeyboardInterrupt):
            client.connect()
        del client.call_soon
        call = client.request(Ping())
        turns(client)
        theirs.sendall(PONG)
        client.on_ready(*client.watched.popitem())
        assert call.result() == Pong()


@pytest.mark.parametrize("report", ["ready", "on_ready"])
def test_a_descriptor_is_no_stream(report):
    """It would be ignored, and the loop would spin: the descriptor stays ready."""
    with with_callbacks() as (client, _theirs):
        client.connect()
        turns(client)
        [stream] = client.watched
        for wrong in (stream.fileno(), True, None):
            with pytest.raises(TypeError, match="gave, not its descriptor"):
                getattr(client, report)(wrong, READ)


def test_callbacks_are_called_in_a_turn_and_may_use_the_client():
    with with_callbacks() as (client, theirs):
        done = []
        client.connect(context=lambda task: client.request(Ping(), context=done.append))
        turns(client)
        assert client.is_connected
        theirs.sendall(encode(Lifecycle("ready")) + PONG)
        client.on_ready(*next(iter(client.watched.items())))
        assert [call.result() for call in done] == [Pong()]
        assert client.told == [NotificationReceived(Lifecycle("ready"))]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_a_callback_that_raises_does_not_keep_the_others_from_being_told(error):
    with with_callbacks() as (client, theirs):
        done = []

        def broken(call):
            done.append(call)
            raise error(len(done))

        calls = client.request_many([Ping(), Ping()], context=broken)
        turns(client)
        theirs.sendall(PONG * 2)
        client.timers.clear()
        with pytest.raises(error) as caught:
            client.on_ready(*next(iter(client.watched.items())))
        assert caught.value.args == (1,)
        assert done == calls
        assert client.timers == [None], "the turn is finished first"
        with pytest.raises(error) as caught:
            turns(client)
        assert caught.value.args == (2,), "each goes to the loop"


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_a_callback_of_a_dialogue_that_raises_does_not_keep_the_others_from_being_told(error):
    with with_callbacks() as (client, theirs):
        done = []

        def broken(_step):
            raise error

        plan = ProvisionPlan(mounts=[Mount("share0", "/workspace", "9p")])
        task = client.provision(plan, on_step=broken, context=done.append)
        other = client.run(one_ping(), context=done.append)
        turns(client)
        theirs.sendall(encode(Ack("mount", True)) + PONG)
        client.timers.clear()
        with nullcontext() if error is KeyError else pytest.raises(error):
            client.on_ready(*next(iter(client.watched.items())))
        assert done == [task, other]
        assert client.told == []
        assert type(task.error) is error
        assert client.timers == [None], "the turn is finished first"


def one_ping():
    return (yield Send(Ping()))


def write_and_read(client):
    turns(client)
    client.on_ready(*next(iter(client.watched.items())))


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError, BlockingIOError])
@pytest.mark.parametrize("role", Role)
def test_what_the_trace_raises_goes_to_the_loop_and_ends_the_connection(error, role):
    """Going on would send the same bytes again. Nor is it an error of the stream."""

    def trace(sender, _data):
        if sender is role:
            raise error

    ours, theirs = socket.socketpair()
    client = Callbacks(Dial(lambda: ours), trace=trace)
    with theirs, closing(client):
        call = client.request(Ping())
        theirs.sendall(PONG)
        with pytest.raises(error):
            write_and_read(client)
        turns(client)
        assert theirs.recv(100) == PING
        with pytest.raises(ConnectionLost, match="was interrupted"):
            call.result()
        assert client.told == [CallDone(call), SessionEnded(client.session.ended)]
        assert client.watched == {}


def test_what_a_read_raises_goes_to_the_loop_beside_what_a_callback_raises():
    ours, theirs = socket.socketpair()
    client = Callbacks(Dial(lambda: Interrupting(ours, "recv", 1)))
    with theirs, closing(client):
        client.request(Ping(), context=lambda _call: 1 / 0)
        theirs.sendall(PONG)
        with pytest.raises(KeyboardInterrupt):
            write_and_read(client)
        with pytest.raises(ZeroDivisionError):
            turns(client)
        assert client.watched == {}


@pytest.mark.parametrize("name", ["recv", "send"])
def test_an_interrupt_while_the_client_reads_or_writes_ends_the_connection(name):
    """Nobody knows what was read or written: a request would leave twice, or a reply answer another request."""
    ours, theirs = socket.socketpair()
    with theirs, looped(Dial(lambda: Interrupting(ours, name, 1))) as loop:
        call = loop.client.request(Ping())
        theirs.sendall(PONG)
        with pytest.raises(KeyboardInterrupt):
            loop.run(lambda: call.done)
        loop.pull()
        with pytest.raises(ConnectionLost, match="was interrupted"):
            call.result()
        assert theirs.recv(100) == PING, "it left once"


def test_the_timer_is_set_anew_in_each_turn_and_never_in_the_past():
    with with_callbacks() as (client, theirs):
        call = client.request(Ping(), timeout=3)
        turns(client)
        assert client.timers[-1] == 3.0
        client.now += 1
        client.on_ready(theirs, READ)  # a stream of others
        assert client.timers[-1] == 2.0
        client.now += 5
        client.on_timer()
        assert client.told == [CallDone(call)]
        assert client.timers[-1] is None


def test_what_is_late_is_told_although_the_guest_never_stops_talking():
    """Each read sets the timer anew, so the deadline is looked at in every turn."""
    with with_callbacks() as (client, theirs):
        call = client.request(Ping(), timeout=3)
        turns(client)
        client.now += 3
        theirs.sendall(encode(Lifecycle("ready")))
        client.on_ready(*next(iter(client.watched.items())))
        assert client.told == [NotificationReceived(Lifecycle("ready")), CallDone(call)]


def test_a_reply_that_has_arrived_is_not_late():
    with with_callbacks() as (client, theirs):
        call = client.request(Ping(), timeout=3)
        turns(client)
        client.now += 3
        theirs.sendall(PONG)
        client.on_ready(*next(iter(client.watched.items())))
        assert call.result() == Pong()


def test_a_dialogue_of_ones_own():
    with with_callbacks() as (client, _theirs):
        done = []

        def dialogue():
            yield Connect(5)
            yield Sleep(2)
            return "over"

        client.run(dialogue(), timeout=9, context=done.append)
        turns(client)
        assert client.timers[-1] == 2.0
        client.now += 2
        client.on_timer()
        assert [task.result() for task in done] == ["over"]


def test_a_loop_has_to_bring_its_three_functions():
    class Half(LoopClient):
        def set_timer(self, seconds):
            """One of them."""

    class WithOneAdded(Half):
        def watch(self, stream, mask):
            """Another one."""

    for kind, missing in ((LoopClient, "watch, set_timer, call_soon"), (Half, "watch, call_soon")):
        with pytest.raises(TypeError, match=f"^{kind.__name__} lacks {missing}: a subclass of LoopClient brings"):
            kind(TCP("127.0.0.1", 1))
    with pytest.raises(TypeError, match="WithOneAdded lacks call_soon: a subclass"):
        WithOneAdded(TCP("127.0.0.1", 1))


def test_the_only_hook_may_be_left_as_it_is():
    assert LoopClient.on_event(Callbacks(TCP("127.0.0.1", 1)), None) is None


@pytest.mark.parametrize(
    "names",
    [
        ["ready"],
        ["on_ready"],
        ["on_timer"],
        ["turn"],
        ["connect", "request", "session"],
        ["is_connected"],
        ["label"],
        ["_wake"],
        ["_stream"],
        ["_is_woken"],
    ],
    ids=str,
)
def test_a_subclass_may_not_hide_what_the_client_needs(names):
    """With a callback called `ready`, the loop never rested."""
    own = {**dict.fromkeys(names), "watch": None, "helper": None, "__doc__": "Fine."}
    with pytest.raises(TypeError, match=f"^Mine defines {', '.join(names)}, which LoopClient uses itself"):
        type("Mine", (Callbacks,), own)


def test_a_subclass_may_override_what_it_says_it_overrides():
    class Mine(Callbacks):
        @override
        def close(self):
            super().close()
            self.told.append("closed")

    client = Mine(TCP("127.0.0.1", 1))
    client.close()
    assert client.told == ["closed"]


def test_a_base_of_a_subclass_gets_its_arguments():
    class Named:
        def __init_subclass__(cls, *, name, **options):
            super().__init_subclass__(**options)
            cls.name = name

    class Mine(Callbacks, Named, name="mine"):
        pass

    assert Mine.name == "mine"


def test_all_names_of_a_client_are_known():
    """Those that an instance has, too."""
    client = Callbacks(TCP("127.0.0.1", 1))
    own = {*vars(client)} - {"now", "watched", "timers", "soon", "told"}
    assert own <= _loop_client._TAKEN
    assert not {"watch", "set_timer", "call_soon", "on_event"} & _loop_client._TAKEN


@contextmanager
def with_dials(*outcomes):
    """A client that dials as it is told, where an exception is a failed dial; and what its callbacks saw of it."""
    left = deque(outcomes)

    def dial():
        outcome = left.popleft()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    client = Callbacks(Dial(dial))
    yield client
    client.close()
    turns(client)


def until_dialled_again(client):
    client.now += 5
    client.on_timer()


def test_a_wait_replaces_a_connection_that_ends_and_tells_of_its_end():
    """`SessionEnded` is the end of one connection, not of the guest."""
    (first, gone), (second, guest) = socket.socketpair(), socket.socketpair()
    seen = []
    with guest, with_dials(first, second) as client:
        client.wait_ready(timeout=60, context=lambda task: seen.append((task.result().state, client.is_connected)))
        turns(client)
        gone.close()
        client.on_ready(*next(iter(client.watched.items())))
        assert [type(event) for event in client.told] == [SessionEnded]
        assert not client.is_connected
        until_dialled_again(client)
        guest.sendall(encode(Health("ready")))
        client.on_ready(*next(iter(client.watched.items())))
        assert seen == [("ready", True)]
        assert len(client.told) == 1


def test_a_request_after_the_end_is_refused_where_it_is_made():
    """Its callback is not called. A task is begun all the same, and its callback gets the error."""
    with with_callbacks() as (client, theirs):
        client.connect(context=bool)
        turns(client)
        theirs.close()
        client.on_ready(*next(iter(client.watched.items())))
        assert [type(event) for event in client.told] == [SessionEnded]
        done = []
        for ask in (lambda: client.request(Ping(), context=done.append), lambda: client.request_many([Ping()])):
            with pytest.raises(ConnectionLost, match="ping was not sent"):
                ask()
        client.shutdown(context=done.append)
        assert done == []
        turns(client)
        assert [type(task.error) for task in done] == [ConnectionLost]


@pytest.mark.parametrize("ask", [lambda client: client.request(Ping()), lambda client: client.connect()])
def test_a_dial_that_fails_ends_a_session(ask):
    with with_dials(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) as client:
        ask(client)
        turns(client)
        assert [type(event.error) for event in client.told if type(event) is SessionEnded] == [ConnectError]


def test_a_dial_that_fails_and_is_repeated_does_not():
    """A wait tells only of the last one, if it gives up."""
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    ours, theirs = socket.socketpair()
    with theirs, with_dials(refused, refused, ours) as client:
        client.wait_ready(timeout=60)
        turns(client)
        until_dialled_again(client)
        until_dialled_again(client)
        assert client.is_connected
        assert client.told == []
    with with_dials(refused, refused) as client:
        task = client.wait_ready(timeout=7)
        turns(client)
        until_dialled_again(client)
        assert client.told == []
        client.now += 5
        client.on_timer()
        assert client.told == [TaskDone(task), SessionEnded(client.session.ended)]
        assert type(task.error) is NotReady


def test_cancelling_asks_for_a_turn():
    """Where writing has failed, the last written call that is given up ends the session."""
    with with_callbacks() as (client, theirs):
        call = client.request(Ping())
        turns(client)
        theirs.shutdown(socket.SHUT_RD)
        client.request(MOUNT)
        turns(client)
        client.told.clear()
        client.cancel(call)
        assert client.told == []
        turns(client)
        assert [type(event) for event in client.told] == [SessionEnded]
        assert client.watched == {}
