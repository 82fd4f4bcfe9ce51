"""What the three servers have in common: what they serve, where, and their connections."""

from __future__ import annotations

import abc
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import attrs

from stereos_proto import (
    NEED_DATA,
    Ack,
    Lifecycle,
    MalformedReceived,
    PendingRequest,
    ReplyReplaced,
    Request,
    SessionEnded,
)
from stereos_proto_io.addresses import Address

from ._faulty_session import Denied, FaultySession, Session, session_for
from ._listen import Endpoint, bind_all
from ._orders import Close, Order, Pause, PowerOff, Reboot
from .faults import Fault, FaultPlan, Restart
from .simulator import RequestRefused

LOG: Final = logging.getLogger("stereos_proto_io.guest")

#: Seconds between tries to listen later than at first, where another program has taken the address.
REBIND_PAUSE: Final = 0.2

#: A handler that closes its server is told this, and to do it elsewhere.
WAITS_FOR_ITSELF: Final = "a handler cannot close its server, since it would wait for itself: do it in another"

#: Waits for some seconds.
Sleep = Callable[[float], Awaitable[object]]

#: Takes a request and returns its reply, or what the server's module says instead of it.
Handler = Callable[[Request], Any]


class Guest(Protocol):
    """A guest as an object: `GuestSimulator` is one."""

    faults: FaultPlan

    def handle(self, request: Request, /) -> Any:
        """Carry `request` out, and return its reply."""
        ...

    def reboot(self) -> None:
        """Start anew."""
        ...

    def power_off(self) -> None:
        """Lose power."""
        ...


@attrs.define
class _Plain:
    """A handler that is only a function."""

    #: What takes a request and returns its reply.
    handle: Handler
    #: What goes wrong around it.
    faults: FaultPlan

    def reboot(self) -> None:
        """Do nothing: a plain function has no state to reset."""

    def power_off(self) -> None:
        """Do nothing: a plain function has nothing to release."""


def as_guest(handler: Handler | Guest, faults: Iterable[Fault | str]) -> Guest:
    """Return `handler` as a guest. A guest has its own faults; a function is given `faults`."""
    if not hasattr(handler, "handle"):
        if not callable(handler):
            raise TypeError(f"a handler is a function or a guest, not {type(handler).__name__}")
        function: Any = handler
        return _Plain(function, FaultPlan(faults))
    if isinstance(handler, type):
        raise TypeError(f"a guest is wanted, and {handler.__name__} is a class: call it")
    if faults:
        raise TypeError("give the faults to the guest object itself: it has some of its own")
    return cast("Guest", handler)


def refusal(request: Request, exc: BaseException) -> Ack:
    """Return what the host is told when the handler of `request` raised `exc`.

    A RequestRefused says what the host is to see. Everything else is a fault of the handler: it is logged, and
    only its class goes over the wire.
    """
    if isinstance(exc, RequestRefused):
        return Ack(request.type, False, str(exc))
    LOG.error("the handler of %s failed", request.type, exc_info=exc)
    return Ack(request.type, False, f"internal error: {type(exc).__name__}")


class BaseConnection(abc.ABC):
    """One connection from a host, or one stream that has none."""

    #: Where the host came in.
    endpoint: Endpoint
    #: The conversation with it.
    session: Session
    #: What carries its requests out.
    guest: Guest

    def __init__(self, guest: Guest, endpoint: Endpoint, session: Session) -> None:
        self.guest = guest
        self.endpoint = endpoint
        self.session = session
        self._faulty = session if isinstance(session, FaultySession) else None

    def on_event(self, event: object) -> None:
        """Do what an event of the session asks for."""
        if isinstance(event, PendingRequest):
            self._answer(event, self.guest.handle)
        elif isinstance(event, Denied):
            self._answer(event.pending, lambda request: self._deny(request, event.text))
        elif isinstance(event, Pause):
            self.obey(event)
        elif isinstance(event, SessionEnded):
            self.obey(PowerOff() if self.session.shut_down else Close())
        elif isinstance(event, ReplyReplaced):
            LOG.error("the handler's reply to %s cannot be sent: %s", event.pending.request.type, event.error)
        elif isinstance(event, MalformedReceived):
            LOG.debug("a line was refused: %s", event.error)

    def _answer(self, pending: PendingRequest, handle: Handler) -> None:
        try:
            result = handle(pending.request)
        except Exception as exc:  # noqa: BLE001  (whatever it is, the host is owed a reply)
            result = refusal(pending.request, exc)
        except BaseException as exc:
            self.reply(pending, refusal(pending.request, exc))
            raise
        self.handled(pending, result)

    def _deny(self, request: Request, text: str) -> Any:
        """Refuse `request`. A guest with a `deny` of its own takes note of what is asked."""
        deny = getattr(self.guest, "deny", None)
        return Ack(request.type, False, text) if deny is None else deny(request, text)

    @abc.abstractmethod
    def push(self, notification: Lifecycle) -> bool:
        """Send `notification` after what is queued; False if the host has left too much unread."""
        ...

    @abc.abstractmethod
    def handled(self, pending: PendingRequest, result: Any) -> None:
        """Take what the handler returned: a reply, or what will become one."""
        ...

    @abc.abstractmethod
    def reply(self, pending: PendingRequest, message: Any) -> None:
        """Answer `pending`, and write what can be written."""
        ...

    @abc.abstractmethod
    def obey(self, order: Order) -> None:
        """Pause, close, or end the whole guest."""
        ...


class LoopConnection(BaseConnection):
    """A connection in an event loop, where one thing happens at a time.

    Everything that may have changed the session ends in `pump`: it hands events to the guest and writes, until nothing
    is left to do or the turn is over. A turn is bounded, so that hosts which send without end do not keep the others
    waiting: after `TURN` events the rest waits for the next turn of the loop.
    """

    #: Events that are handled before other connections get their turn: about a millisecond's worth.
    TURN: Final = 64

    def __init__(self, guest: Guest, endpoint: Endpoint, session: Session, current: dict[Session, Any]) -> None:
        super().__init__(guest, endpoint, session)
        # Session → the connection that it is on now. It outlives one where the stream has no connections.
        self._current = current
        self._pumping = False  # whether pump is at work already: a handler may push
        self._busy = False  # whether a turn ended before everything was handled
        self.is_open: bool = False  # whether the stream can be read and written

    def pump(self) -> None:
        """Do what can be done now."""
        if self._pumping:
            return
        self._pumping = True
        try:
            left = self.TURN
            while self.is_open:
                left = self._pull(left)
                # Without room, or at the end of the stream, writing may bring the next event.
                stuck = not self.session.wants_data
                wrote = self._write_all()
                if not left or not (stuck and wrote):
                    break
        finally:
            self._pumping = False
        self._busy = not left
        if self.is_open:
            self.watch(busy=self._busy)

    def _pull(self, left: int) -> int:
        next_event = self.session.next_event
        while left and self.is_open and (event := next_event()) is not NEED_DATA:
            left -= 1
            self.on_event(event)
            if self._faulty is not None:
                # A fault may end the connection or the guest after this reply: what follows is not carried out then.
                self._write_all()
        return left

    def _write_all(self) -> bool:
        wrote = False
        while self.is_open:
            if self._faulty is not None and (order := self._faulty.next_order()) is not None:
                self.obey(order)
            elif self.write_some():
                wrote = True
            else:
                break
        return wrote

    def push(self, notification: Lifecycle) -> bool:
        """Send `notification` after what is queued; False if the host has left too much unread."""
        pushed = self.session.push(notification)
        self.pump()
        return pushed

    def reply(self, pending: PendingRequest, message: Any) -> None:
        """Answer `pending`, and write what can be written: to this host, or the one that took its place."""
        self.session.reply(pending, message)
        if self._pumping:
            self._write_all()  # a handler ends the turn by an exception
        else:
            self._pump_current()

    async def settle(self, pending: PendingRequest, result: Awaitable[Any]) -> None:
        """Wait for the reply of a handler that takes its time. A handler that is cancelled owes one, too."""
        try:
            message = await result
        except Exception as exc:  # noqa: BLE001  (whatever it is, the host is owed a reply)
            message = refusal(pending.request, exc)
        except BaseException as exc:
            if not self.is_ending():
                self.reply(pending, Ack(pending.request.type, False, f"internal error: {type(exc).__name__}"))
            raise
        self.reply(pending, message)

    def is_ending(self) -> bool:
        """Whether the handler that runs now is ended together with its server, so that the host is told nothing."""
        return False

    def resume(self, pause: Pause) -> None:
        """Go on after a pause."""
        if self._faulty is not None:
            self._faulty.resume(pause)
            self._pump_current()

    def _pump_current(self) -> None:
        connection = self._current.get(self.session)
        if connection is not None:
            connection.pump()

    def arrive(self) -> None:
        """Take the session over, and begin."""
        self._current[self.session] = self
        self.is_open = True
        self.pump()

    def leave(self) -> None:
        """Give the session up. A stream without connections keeps it for the next host."""
        self.is_open = False
        if self._current.get(self.session) is self:
            del self._current[self.session]
        if self.session.has_connections:
            self.session.close()

    @abc.abstractmethod
    def end(self, *, reset: bool = False) -> None:
        """End the connection; at once with `reset`."""

    @abc.abstractmethod
    def abort(self) -> None:
        """End the connection at once, whatever is still to be written."""

    @abc.abstractmethod
    def write_some(self) -> bool:
        """Write what the stream takes now; return whether that was anything."""
        ...

    @abc.abstractmethod
    def watch(self, *, busy: bool) -> None:
        """Read or not, as the session wants; with `busy`, pump again in the next turn of the loop."""
        ...


ConnectionT = TypeVar("ConnectionT", bound=BaseConnection)
LoopConnectionT = TypeVar("LoopConnectionT", bound=LoopConnection)


class Server(Generic[ConnectionT]):
    """A guest that is up, or about to be. `addresses` are those bound, port 0 resolved."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest) -> None:
        self.guest = guest
        self._endpoints = bind_all(address)
        self._connections: set[ConnectionT] = set()
        self._lasting: dict[Address, Session] = {}
        self.addresses: tuple[Address, ...] = tuple(endpoint.address for endpoint in self._endpoints)

    def __repr__(self) -> str:
        return f"<GuestServer {', '.join(map(str, self.addresses))} connections={len(self._connections)}>"

    @property
    def address(self) -> Address:
        """The first address, port 0 resolved."""
        return self.addresses[0]

    @property
    def connections(self) -> tuple[ConnectionT, ...]:
        """The connections that are open now. Each has `push`."""
        return tuple(self._connections)

    def push(self, notification: Lifecycle) -> int:
        """Send `notification` to every connection; return how many took it."""
        return sum(connection.push(notification) for connection in self.connections)

    def _session_for(self, endpoint: Endpoint) -> Session:
        """A session for a stream that came to `endpoint`: a new one, or what the last host left behind (§8)."""
        if endpoint.address in self._lasting:
            return self._lasting[endpoint.address]
        session = session_for(self.guest.faults, has_connections=not endpoint.boundless, ports=endpoint.ports)
        if endpoint.boundless:
            self._lasting[endpoint.address] = session
        return session

    @property
    def _fleeting(self) -> list[Endpoint]:
        """The endpoints that a reboot closes. A serial port is the hypervisor's: it stays, with the host on it."""
        return [endpoint for endpoint in self._endpoints if not endpoint.boundless]

    def _guest_powers_off(self) -> None:
        try:
            self.guest.power_off()
        except Exception:
            LOG.exception("the guest could not power off in good order; its connections end all the same")

    def _guest_reboots(self) -> None:
        try:
            self.guest.reboot()
        except Exception:
            LOG.exception("the guest could not start anew in good order; it listens again all the same")


class LoopServer(Server[LoopConnectionT], abc.ABC):
    """A server whose connections are those of an event loop: how it opens, reboots and powers off."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest, *, sleep: Sleep, rest: Sleep) -> None:
        super().__init__(address, guest)
        # The connection that a session has now.
        self._current: dict[Session, LoopConnectionT] = {}
        # What faults wait by, which a caller may choose.
        self._sleep = sleep
        # The event loop's own sleep.
        self._rest = rest
        self._off = self._make_event()
        self._rebooting = False  # whether the guest does not listen yet after a reboot
        # Endpoints to listen on that could not be had, or not yet. What listens on them later, takes them from here.
        self._missing: list[Endpoint] = []

    async def wait_off(self) -> None:
        """Wait until the guest has shut down, or was closed."""
        await self._off.wait()

    def reboot(self, seconds: float = 0.0) -> None:
        """Reboot the guest, as the fault `reboot` does: end its connections, call its `reboot` after `seconds`, and
        listen again. Returns at once. For the thread of the event loop.

        Raises ValueError when `seconds` is below 0 or not finite, RuntimeError when the guest is off or still reboots.
        """
        order = reboot_in(seconds)
        if self._off.is_set() or self._rebooting:
            raise RuntimeError("the guest is off" if self._off.is_set() else "the guest reboots already")
        self._obey(order)

    def power_off(self) -> None:
        """Take the power away, as the fault `power-off` does: call the guest's `power_off`, end its connections, and
        stop listening. Returns at once. Twice is fine. For the thread of the event loop.
        """
        if not self._off.is_set():
            self._obey(PowerOff())

    def _obey(self, order: PowerOff | Reboot) -> None:
        if isinstance(order, PowerOff):
            self._guest_powers_off()
            self._shut(self._endpoints)
            self._off.set()
        elif not self._rebooting:  # a host on a serial port may ask for another reboot meanwhile
            self._rebooting = True
            # A guest that boots again listens when it is up, not when it would have listened before.
            self._missing = [endpoint for endpoint in self._missing if endpoint.boundless]
            self._shut(self._fleeting)
            self._start(self._boot, order.seconds)

    def _open_in_time(self) -> None:
        """Listen, as soon as the faults allow it."""
        if self.guest.faults.refuse_time:
            self._missing = self._endpoints
            self._start(self._open_later, self.guest.faults.refuse_time)
        else:
            self._open(self._endpoints)

    async def _open_later(self, seconds: float) -> None:
        await self._sleep(seconds)
        await self._open_missing()

    async def _open_missing(self) -> None:
        """Listen where the guest should and does not. Two tasks may do so: one step has no await in it."""
        while self._missing and not self._off.is_set():
            tried, self._missing = self._missing, bind_again(self._missing)
            self._open(endpoint for endpoint in tried if endpoint not in self._missing)
            if self._missing:
                await self._rest(REBIND_PAUSE)

    def _shut(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            self._stop(endpoint)
            endpoint.close()
        for connection in self.connections:
            if connection.endpoint in endpoints:
                # The ack of a shutdown leaves first; else a host that does not read would keep the connection open.
                connection.end() if connection.session.shut_down else connection.abort()

    async def _boot(self, seconds: float) -> None:
        await self._sleep(seconds)
        if self._off.is_set():  # its power was taken away meanwhile
            return
        self._guest_reboots()
        for session in self._lasting.values():
            session.restart()
            if session in self._current:
                self._current[session].pump()
        self._missing = [*self._missing, *self._fleeting]
        await self._open_missing()
        self._rebooting = False

    @abc.abstractmethod
    def _make_event(self) -> Any:
        """Return an event of the runtime."""

    @abc.abstractmethod
    def _start(self, work: Callable[[float], Coroutine[Any, Any, None]], seconds: float, /) -> object:
        """Run `work(seconds)` in a task."""

    @abc.abstractmethod
    def _open(self, endpoints: Iterable[Endpoint]) -> None:
        """Listen on `endpoints` and serve what comes."""

    @abc.abstractmethod
    def _stop(self, endpoint: Endpoint) -> None:
        """Accept no more at `endpoint`, which is closed next."""


def reboot_in(seconds: float) -> Reboot:
    """Return the order to reboot. Raises ValueError when `seconds` is below 0 or not finite."""
    return Reboot(Restart(seconds=seconds).seconds)


def bind_again(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Listen on `endpoints` later than at first: after a reboot, which has closed them, or a time of refusing.

    Return those that could not be had, to be tried again.
    """
    missing = []
    for endpoint in endpoints:
        try:
            if not endpoint.is_bound:
                endpoint.bind()
            endpoint.listen()
        except OSError as exc:
            if not endpoint.missed:
                LOG.warning("the guest cannot listen on %s, and tries on: %s", endpoint.address, exc)
            endpoint.close()
            endpoint.missed = True
            missing.append(endpoint)
        else:
            endpoint.missed = False
    return missing
