"""One connection of an event loop's server, without a loop: turns, what handlers return, and what is logged."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from stereos_proto import Ack, GuestSession, Lifecycle, Mount, Ping, Pong, Shutdown, encode
from stereos_proto_io import TCP
from stereos_proto_io.guest import RequestRefused
from stereos_proto_io.guest._faulty_session import session_for
from stereos_proto_io.guest._listen import Endpoint
from stereos_proto_io.guest._orders import Close, Pause, PowerOff
from stereos_proto_io.guest._server import LoopConnection, as_guest, bind_again, refusal
from stereos_proto_io.guest.faults import FaultPlan

LOGGER = "stereos_proto_io.guest"


class Connection(LoopConnection):
    """A connection whose stream is memory."""

    def __init__(self, handler, faults=(), *, session=None, current=None):
        guest = as_guest(handler, faults)
        session = session or session_for(guest.faults, has_connections=True, ports=None)
        super().__init__(guest, Endpoint(TCP("127.0.0.1", 1024)), session, {} if current is None else current)
        self.wrote = bytearray()
        self.watched, self.orders, self.results = [], [], []

    def write_some(self):
        data = bytes(self.session.data_to_send())
        self.wrote += data
        self.session.data_sent(len(data))
        return bool(data)

    def watch(self, *, busy):
        self.watched.append(busy)

    def handled(self, pending, result):
        self.results.append(result)
        self.session.reply(pending, result)

    def obey(self, order):
        self.orders.append(order)
        if not isinstance(order, Pause):
            self.is_open = False

    def end(self, *, reset=False):
        raise AssertionError

    def abort(self):
        raise AssertionError

    def take(self, *requests):
        """Let a host send requests, and pump as a server does."""
        for request in requests:
            self.session.receive_data(request if isinstance(request, bytes) else encode(request))
        self.pump()


def pong(_request):
    return Pong()


def mounted(request):
    return Ack(request.type, True)


def opened(handler=pong, faults=(), **more):
    connection = Connection(handler, faults, **more)
    connection.arrive()
    return connection


# ------------------------------------------------------------------------------------------------ turns


def test_a_connection_is_open_between_arriving_and_leaving():
    connection = Connection(pong)
    assert not connection.is_open
    connection.arrive()
    assert connection.is_open
    assert connection.watched == [False]
    connection.leave()
    assert not connection.is_open
    assert connection.session.ended


def test_leaving_forgets_the_connection():
    current = {}
    connection = opened(current=current)
    assert current == {connection.session: connection}
    connection.leave()
    assert current == {}


def test_leaving_late_does_not_forget_the_connection_that_took_its_place():
    """A stream without connections keeps its session, which the next host has already."""
    session, current = GuestSession(has_connections=False), {}
    first = opened(session=session, current=current)
    second = opened(session=session, current=current)
    first.leave()
    assert current == {session: second}
    assert not session.ended
    second.leave()
    assert current == {}
    assert not session.ended


def test_a_turn_handles_64_events():
    """With more than that the rest waits for the next turn, and is not read meanwhile."""
    connection = opened()
    connection.watched.clear()
    connection.take(*[Ping()] * 150)
    assert [len(connection.results), connection.watched] == [64, [True]]
    connection.pump()
    assert [len(connection.results), connection.watched] == [128, [True, True]]
    connection.pump()
    assert [len(connection.results), connection.watched] == [150, [True, True, False]]
    assert connection.wrote == encode(Pong()) * 150


def test_a_connection_that_never_pumped_is_not_busy():
    assert not Connection(pong)._busy


# ------------------------------------------------------------------------------------ what handlers return


def refusal_of(request, error):
    return bytes(encode(Ack(request.type, False, error)))


def test_a_handler_that_fails_is_logged_and_only_its_class_is_told(caplog):
    error = ZeroDivisionError("with a secret")
    with caplog.at_level(logging.ERROR, LOGGER):
        assert refusal(Ping(), error) == Ack("ping", False, "internal error: ZeroDivisionError")
    (record,) = caplog.records
    assert record.getMessage() == "the handler of ping failed"
    assert record.exc_info[1] is error


def test_a_refusal_is_told_and_not_logged(caplog):
    with caplog.at_level(logging.DEBUG, LOGGER):
        assert refusal(Ping(), RequestRefused("not now")) == Ack("ping", False, "not now")
    assert not caplog.records


def test_a_reply_that_cannot_be_sent_is_logged(caplog):
    connection = opened(lambda _request: Shutdown())
    with caplog.at_level(logging.DEBUG, LOGGER):
        connection.take(Ping())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("the handler's reply to ping cannot be sent: ")


def test_a_line_that_is_refused_is_logged_for_debugging(caplog):
    connection = opened()
    with caplog.at_level(logging.DEBUG, LOGGER):
        connection.take(b"nonsense\n")
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().startswith("a line was refused: ")


def test_a_pause_says_nothing_to_the_log(caplog):
    connection = opened(faults=["delay:3s@ping"])
    with caplog.at_level(logging.DEBUG, LOGGER):
        connection.take(Ping())
    (pause,) = connection.orders
    assert (pause.seconds, pause.writing) == (3.0, False)
    assert not caplog.records
    connection.resume(pause)
    assert connection.wrote == encode(Pong())


def test_denied_requests_of_a_function_are_refused():
    connection = opened(mounted, ["deny@mount"])
    connection.take(Mount("t", "/w", "9p"))
    (result,) = connection.results
    assert (result.reply_to, result.ok) == ("mount", False)


def test_denied_requests_of_a_guest_are_its_own_matter():
    noted = []

    def deny(request, text):
        noted.append(text)
        return Ack(request.type, False, text)

    guest = SimpleNamespace(handle=mounted, deny=deny, faults=FaultPlan(["deny@mount"]))
    connection = opened(guest)
    connection.take(Mount("t", "/w", "9p"))
    assert [result.error for result in connection.results] == noted != []


@pytest.mark.parametrize(("fault", "order"), [("power-off@mount#1", PowerOff()), ("close@mount#1", Close())])
def test_what_follows_the_end_is_not_carried_out(fault, order):
    connection = opened(mounted, [fault])
    connection.take(*[Mount("t", "/w", "9p")] * 5)
    assert len(connection.results) == 1
    assert connection.wrote == encode(Ack("mount", True))
    assert connection.orders == [order]


def test_a_guest_that_shuts_down_loses_its_power_and_others_close():
    connection = opened(mounted)
    connection.take(Shutdown())
    assert connection.orders == [PowerOff()]
    connection = opened()
    connection.session.receive_eof()
    connection.pump()
    assert connection.orders == [Close()]


def settled(connection, result):
    """Let a handler that takes its time come to its result; return what it raised."""
    connection.session.receive_data(encode(Ping()))
    pending = connection.session.next_event()

    async def late():
        raise result

    try:
        asyncio.run(connection.settle(pending, late()))
    except BaseException as exc:  # noqa: BLE001
        return exc
    return None


def test_a_late_handler_that_fails_owes_a_refusal():
    connection = opened()
    assert settled(connection, RequestRefused("too late")) is None
    assert connection.wrote == refusal_of(Ping(), "too late")


def test_a_late_handler_that_is_cancelled_owes_a_refusal():
    connection = opened()
    assert isinstance(settled(connection, asyncio.CancelledError()), asyncio.CancelledError)
    assert connection.wrote == refusal_of(Ping(), "internal error: CancelledError")


def test_a_late_handler_that_ends_with_its_server_owes_nothing():
    connection = opened()
    connection.is_ending = lambda: True
    assert isinstance(settled(connection, asyncio.CancelledError()), asyncio.CancelledError)
    assert not connection.wrote


def test_a_handler_that_raises_more_than_an_exception_ends_the_turn_with_a_reply():
    def interrupted(_request):
        raise KeyboardInterrupt

    connection = opened(interrupted)
    with pytest.raises(KeyboardInterrupt):
        connection.take(Ping())
    assert connection.wrote == refusal_of(Ping(), "internal error: KeyboardInterrupt")


def test_a_push_in_a_handler_is_written_after_it():
    def handler(_request):
        assert connection.push(Lifecycle("ready"))
        assert not connection.wrote
        return Pong()

    connection = opened(handler)
    connection.take(Ping())
    assert connection.wrote == encode(Lifecycle("ready")) + encode(Pong())


# -------------------------------------------------------------------------------------- listening again


class Place:
    """An endpoint that another program has, as often as is said."""

    address = TCP("127.0.0.1", 1024)

    def __init__(self, *, bind=0, listen=0):
        self.failures = {"bind": bind, "listen": listen}
        self.is_bound = self.missed = self.listens = False

    def _try(self, name):
        if self.failures[name]:
            self.failures[name] -= 1
            raise OSError(98, f"in use ({name})")

    def bind(self):
        assert not self.is_bound
        self._try("bind")
        self.is_bound = True

    def listen(self):
        assert self.is_bound
        self._try("listen")
        self.listens = True

    def close(self):
        self.is_bound = False


@pytest.mark.parametrize("name", ["bind", "listen"])
def test_a_place_that_is_taken_is_tried_again_and_logged_once(name, caplog):
    place, free = Place(**{name: 2}), Place()
    with caplog.at_level(logging.WARNING, LOGGER):
        assert bind_again([place, free]) == [place]
        assert free.listens
        assert not place.is_bound  # what was bound and cannot be listened on is given back
        assert bind_again([place]) == [place]
        assert bind_again([place]) == []
    assert place.listens
    (record,) = caplog.records
    assert record.getMessage().startswith("the guest cannot listen on tcp://127.0.0.1:1024, and tries on: ")


def test_the_next_outage_is_logged_anew(caplog):
    place = Place(bind=1)
    with caplog.at_level(logging.WARNING, LOGGER):
        assert bind_again([place]) == [place]
        assert bind_again([place]) == []
        place.close()
        place.failures["bind"] = 1
        assert bind_again([place]) == [place]
    assert len(caplog.records) == 2
