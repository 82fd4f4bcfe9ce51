"""One connection of the server with threads, over a transport in memory: how its threads end, and who is joined."""

import inspect
import logging
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from guest_harness import PATIENCE, Host, ends, started, waits
from stereos_proto import GuestSession, Lifecycle, Ping, Pong, encode
from stereos_proto._guest_session import MAX_UNANSWERED
from stereos_proto_io import TCP
from stereos_proto_io.guest import blocking
from stereos_proto_io.guest._blocking_connection import GuestConnection, Shared
from stereos_proto_io.guest._listen import Endpoint
from stereos_proto_io.guest._server import as_guest


class Transport:
    """Bytes come from a queue, and go into a list."""

    def __init__(self):
        self.incoming, self.sent, self.told = SimpleQueue(), [], []
        self.error = None

    def receive(self):
        data = self.incoming.get(timeout=PATIENCE)
        if isinstance(data, Exception):
            raise data
        return data

    def send(self, data, *, wait):
        if self.error:
            raise self.error
        self.sent.append((bytes(data), wait))
        return len(data)

    def end(self, *, reset=False):
        self.told.append(f"end reset={reset}")
        self.incoming.put(b"")

    def close(self):
        self.told.append("close")


def made(handler=lambda _request: Pong(), *, shared=None, has_connections=True):
    server = SimpleNamespace(guest=as_guest(handler, ()), left=[])
    server._left = server.left.append
    shared = shared or Shared(GuestSession(has_connections=has_connections))
    return GuestConnection(server, Endpoint(TCP("127.0.0.1", 1)), Transport(), shared)


def test_what_is_shared_is_made_of_a_session():
    assert [*inspect.signature(Shared).parameters] == ["session", "lock"]


def test_a_host_comes_asks_and_goes():
    connection = made()
    connection.start()
    connection._transport.incoming.put(encode(Ping()))
    connection._transport.incoming.put(OSError("gone"))
    connection.join()
    assert connection._transport.sent == [(encode(Pong()), False)]
    assert connection._transport.told == ["end reset=False", "close"]
    assert connection._server.left == [connection]
    assert connection.session.ended
    assert connection._shared.current is None


def test_the_next_host_gets_what_the_last_one_was_owed():
    """On a stream that has no connections, the session outlives them."""
    shared = Shared(GuestSession(has_connections=False))
    shared.session.push(Lifecycle("ready"))
    connection = made(shared=shared)
    connection.start()
    connection._transport.incoming.put(encode(Ping()))
    connection._transport.incoming.put(b"")
    connection.join()
    assert b"".join(data for data, _ in connection._transport.sent) == encode(Lifecycle("ready")) + encode(Pong())
    assert not shared.session.ended


def test_a_host_that_took_the_place_keeps_it():
    connection = made(has_connections=False)

    class Next:
        """Takes the place as soon as there is one."""

        @staticmethod
        def receive():
            connection._shared.current = other
            return b""

    other = object()
    connection._transport.receive = Next.receive
    connection.start()
    connection.join()
    assert connection._shared.current is other


def test_an_error_of_ours_ends_the_connection_and_is_logged(caplog):
    connection = made()
    connection.start()
    with caplog.at_level(logging.ERROR, "stereos_proto_io.guest"):
        connection._transport.incoming.put(ZeroDivisionError("a bug"))
        connection.join()
    assert connection._transport.told == ["end reset=False", "close"]
    (record,) = caplog.records
    assert record.getMessage() == "the connection to tcp://127.0.0.1:1 ends over an error"


def test_a_write_that_fails_ends_the_session_and_the_connection():
    connection = made()
    connection.session.push(Lifecycle("ready"))
    connection._fail(OSError("gone"))
    assert not connection.session.wants_write
    assert connection._ending
    assert connection._transport.told == ["end reset=False"]


def test_a_write_that_fails_in_the_thread_that_reads():
    connection = made()
    connection._transport.error = OSError("gone")
    connection.start()
    connection._transport.incoming.put(encode(Ping()))
    connection.join()
    assert connection._transport.told == ["end reset=False", "close"]


def test_joining_waits_until_the_transport_is_closed():
    """Not for the thread alone: CPython 3.11 takes one for ended whose join was interrupted."""
    connection = made()
    connection._reader = started(lambda: None)
    joining = started(connection.join)
    assert waits(joining)
    connection._gone.set()
    assert ends(joining)


def test_joining_waits_until_the_thread_has_ended():
    connection, go_on = made(), threading.Event()
    connection._reader = started(lambda: go_on.wait(PATIENCE))
    connection._gone.set()
    joining = started(connection.join)
    assert waits(joining)
    go_on.set()
    assert ends(joining)


def test_a_connection_knows_its_own_threads_and_ends_after_them():
    connection, box, go_on = made(), SimpleQueue(), threading.Event()

    def work():
        box.put(threading.current_thread())
        go_on.wait(PATIENCE)

    connection.start()
    connection._help("guest helps", work)
    helper = box.get(timeout=PATIENCE)
    assert connection.runs_in(helper)
    assert connection.runs_in(connection._reader)
    assert not connection.runs_in(threading.current_thread())
    connection.end()
    joining = started(connection.join)
    assert waits(joining)
    assert connection._transport.told == ["end reset=False"]  # not closed: the helper may be using it
    go_on.set()
    assert ends(joining)
    assert connection._transport.told == ["end reset=False", "close"]
    assert not connection.runs_in(helper)


def test_a_helper_that_ends_while_it_is_looked_for_is_no_error():
    connection, copies = made(), []

    class Racing(set):
        def copy(self):
            copies.append(1)
            self.clear()  # as a helper does at its end, in another thread
            return set(self)

    connection._helpers = Racing({threading.current_thread()})
    connection.start()
    connection.end()
    connection.join()
    assert copies


@pytest.mark.parametrize("size", [1, 3])
def test_a_thread_writes_what_the_host_does_not_take_at_once(size):
    connection, threads = made(lambda _request: Pong()), []

    def send(data, *, wait):
        if not wait:
            raise BlockingIOError
        threads.append(threading.current_thread().name)
        connection._transport.sent.append((bytes(data[:size]), wait))
        return min(size, len(data))

    connection._transport.send = send
    connection.start()
    connection._transport.incoming.put(encode(Ping()))
    while connection.session.pending or connection.session.wants_write or not threads:
        threading.Event().wait(0.001)
    connection._transport.incoming.put(OSError("gone"))
    connection.join()
    assert b"".join(data for data, _ in connection._transport.sent) == encode(Pong())
    assert {*threads} == {"guest writes"}


def test_a_write_that_fails_in_the_thread_that_waits_ends_the_connection():
    connection = made()

    def send(_data, *, wait):
        raise OSError("gone") if wait else BlockingIOError

    connection._transport.send = send
    connection.start()
    connection._transport.incoming.put(encode(Ping()))
    connection.join()
    *ends, last = connection._transport.told
    assert ({*ends}, last) == ({"end reset=False"}, "close")  # the thread that reads may end it as well
    assert connection.session.ended


def test_its_threads_do_not_keep_a_program_alive():
    connection, box = made(), SimpleQueue()
    connection._help("guest helps", lambda: box.put(threading.current_thread()))
    assert box.get(timeout=PATIENCE).daemon
    assert connection._reader.daemon


def test_the_thread_that_reads_waits_while_too_much_is_owed():
    looks, answers = [], []

    def handler(_request):
        answers.append(Future())
        return answers[-1]

    class Counted(GuestSession):
        def next_event(self):
            looks.append(1)
            return super().next_event()

    connection = made(handler, shared=Shared(Counted()))
    connection.start()
    connection._transport.incoming.put(encode(Ping()) * MAX_UNANSWERED)
    while len(answers) < MAX_UNANSWERED:
        threading.Event().wait(0.001)
    assert waits(connection._reader)
    assert len(looks) < MAX_UNANSWERED + 20  # it sleeps, and does not look all the time
    for answer in answers:
        answer.set_result(Pong())
    connection._transport.incoming.put(OSError("gone"))
    connection.join()
    assert b"".join(data for data, _ in connection._transport.sent) == encode(Pong()) * MAX_UNANSWERED


def test_the_reply_to_a_line_that_is_refused_may_be_late():
    """The handler has no part in it, so nothing but the thread that reads looks for what is to be done."""
    with (
        blocking.serve(TCP("127.0.0.1", 0), lambda _request: Pong(), faults=["late:3600s"], sleep=id) as server,
        Host(server.address) as host,
    ):
        host.send(b"nonsense\n")
        assert host.reply()["payload"]["ok"] is False
