"""A guest's server with threads: one that accepts, and one for each connection."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from queue import SimpleQueue
from typing import Final, Self

from stereos_proto_io.addresses import Address
from stereos_proto_io.driver._device import AWAY_PAUSE

from ._blocking_connection import GuestConnection, Shared
from ._blocking_transport import DeviceTransport, SocketTransport, Transport
from ._listen import Endpoint
from ._orders import PowerOff, Reboot
from ._server import LOG, REBIND_PAUSE, WAITS_FOR_ITSELF, Guest, Handler, Server, as_guest, bind_again, reboot_in
from .faults import Fault

__all__ = ["GuestServer", "serve"]

#: Bytes that one read takes from the wake-up pipe.
_BELL: Final = 4096

Sleep = Callable[[float], object]


def serve(
    address: Address | Sequence[Address],
    handler: Handler | Guest,
    *,
    faults: Iterable[Fault | str] = (),
    sleep: Sleep | None = None,
) -> GuestServer:
    """Serve `handler` at one address or several, until the server is closed or the guest has shut down.

    `handler` takes a request and returns its reply, or a `concurrent.futures.Future` of it: then the next
    request is handled meanwhile. It may raise RequestRefused. Or it is an object like `GuestSimulator`, which
    has `faults` of its own. Requests of one connection are handled in turn, those of several at once.

    `sleep` replaces the waiting that faults ask for, which `close` otherwise interrupts.

    Raises OSError when an address cannot be had, ValueError when a guest cannot listen on it,
    TypeError when `handler` is neither function nor guest, an address is no Address, or a guest with faults of its own
    gets `faults`. The result is a context manager.
    """
    return GuestServer(address, as_guest(handler, faults), sleep)


class GuestServer(Server[GuestConnection]):
    """What `serve` returns: a guest that is up."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest, sleep: Sleep | None) -> None:
        self._sleep = sleep
        self._shared: dict[Address, Shared] = {}  # of streams without connections
        self._missing: list[Endpoint] = []  # could not be listened on when it was time
        self._stopping = threading.Event()  # set to end the accepting thread
        self._powerless = False  # whether it ends because the guest loses its power
        self._off = threading.Event()  # set when it has ended
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._waiting: set[threading.Event] = set()  # of those who wait for a reboot, which the end of the guest ends
        # Undone where an address is another guest's, a descriptor is missing, or no thread can be started.
        with ExitStack() as undo:
            self._bell, self._hears = socket.socketpair()
            undo.enter_context(self._bell)
            undo.enter_context(self._hears)
            # If the wake-up pipe is full, the accepting thread will wake up anyway. A connection that ends must not
            # block on it: that thread may be waiting for the connection.
            self._bell.setblocking(False)
            self._selector = undo.enter_context(selectors.DefaultSelector())
            self._selector.register(self._hears, selectors.EVENT_READ)
            super().__init__(address, guest)
            for endpoint in self._endpoints:
                undo.callback(endpoint.close)
            self._accepting = threading.Thread(target=self._run, name=f"guest at {self.address}", daemon=True)
            if not guest.faults.refuse_time:
                self._open(self._endpoints)
            self._accepting.start()
            undo.pop_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the guest has shut down or was closed, or for `timeout` seconds; return whether it has."""
        # Not by the thread: CPython 3.11 takes one for ended whose join was interrupted, by Ctrl-C for example, and
        # `close` would not wait for it any more.
        if not self._off.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            return False
        self._accepting.join()
        return True

    def close(self) -> None:
        """Stop listening, end every connection, and wait until all threads have ended. Twice is fine.

        Raises RuntimeError in a handler, which would wait for its own end.
        """
        if self._is_own_thread():
            raise RuntimeError(f"{WAITS_FOR_ITSELF} thread")
        self._stopping.set()
        self._tell(lambda: None)
        self.join()
        self._bell.close()

    def reboot(self, seconds: float = 0.0) -> None:
        """Reboot the guest, as the fault `reboot` does: end its connections, call its `reboot` after `seconds`, and
        listen again.

        Returns when the connections have ended, after the handlers that are at work; with 0 seconds, when the guest
        listens again. Any thread may call it. In a handler it returns at once, and the guest reboots when the handler
        has returned; its reply may be lost.

        Raises ValueError when `seconds` is below 0 or not finite, RuntimeError when the guest is off.
        """
        order = reboot_in(seconds)
        if self._off.is_set():
            raise RuntimeError("the guest is off")
        done = threading.Event()

        def work() -> None:
            try:
                self._reboot(order.seconds, done.set)
            finally:
                done.set()

        self._waiting.add(done)
        self._tell(work)
        if not (self._off.is_set() or self._is_own_thread()):
            done.wait()
        self._waiting.discard(done)

    def power_off(self) -> None:
        """Take the power away, as the fault `power-off` does: call the guest's `power_off`, end its connections, and
        stop listening.

        Returns when the connections have ended, after the handlers that are at work. Twice is fine. Any thread may call
        it. In a handler it returns at once.
        """
        self._lose_power()
        if not self._is_own_thread():
            self.join()

    def _is_own_thread(self) -> bool:
        """Whether this is a thread of the server, which would wait for itself."""
        thread = threading.current_thread()
        return thread is self._accepting or any(connection.runs_in(thread) for connection in self.connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # ----------------------------------------------------------------------- the thread that accepts

    def _tell(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        with suppress(OSError):
            self._bell.send(b"!")

    def _run(self) -> None:
        try:
            if self.guest.faults.refuse_time:
                self._pause(self._stopping, self.guest.faults.refuse_time)
                self._missing = self._endpoints
                self._open_again()
            while not self._stopping.is_set():
                self._serve_once()
        finally:
            try:
                if self._powerless:
                    self._guest_powers_off()
                self._shut(self._endpoints)
                self._selector.close()
                self._hears.close()
            finally:
                # Whatever has happened: somebody may be waiting for it.
                self._off.set()
                for event in tuple(self._waiting):
                    event.set()

    def _serve_once(self) -> None:
        """Accept new hosts and carry out orders. An error in one of them is logged, and the others are still served."""
        try:
            for key, _ in self._selector.select(REBIND_PAUSE if self._missing else None):
                if key.fileobj is self._hears:
                    self._obey_all()
                else:
                    self._accept(key.data)
            if self._missing:
                self._open_again()
        except Exception:  # noqa: BLE001  (whatever it is, other hosts are served)
            LOG.exception("an error while accepting hosts; the guest goes on")
            self._stopping.wait(AWAY_PAUSE)

    def _obey_all(self) -> None:
        # Drain the wake-up pipe before the queue; later orders write to it again.
        self._hears.recv(_BELL)
        while not self._orders.empty():
            self._orders.get()()

    def _open(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint.device:
                self._start(endpoint, DeviceTransport(endpoint.take_device()))
            else:
                endpoint.listen()
                self._watch(endpoint)

    def _open_again(self) -> None:
        tried, self._missing = self._missing, bind_again(self._missing)
        self._open(endpoint for endpoint in tried if endpoint not in self._missing)

    def _watch(self, endpoint: Endpoint) -> None:
        # A host that was seen there may have gone when its turn comes.
        endpoint.listener.setblocking(False)
        self._selector.register(endpoint.listener, selectors.EVENT_READ, endpoint)

    def _accept(self, endpoint: Endpoint) -> None:
        try:
            sock, _ = endpoint.listener.accept()
        except BlockingIOError:
            # The guest has rebooted since a host was seen there, and the listener is another one.
            return
        except OSError:
            # The host has gone again, or we are out of descriptors: the next one comes when one is free.
            self._stopping.wait(AWAY_PAUSE)
            return
        try:
            transport = SocketTransport(sock)
        except OSError:
            sock.close()  # the host has gone again
            return
        if endpoint.boundless:
            self._selector.unregister(endpoint.listener)
        self._start(endpoint, transport)

    def _start(self, endpoint: Endpoint, transport: Transport) -> None:
        connection = GuestConnection(self, endpoint, transport, self._shared_for(endpoint))
        self._connections.add(connection)
        try:
            connection.start()
        except RuntimeError as exc:  # the system has no thread left; there is one when another host has gone
            LOG.warning("a host at %s is turned away: %s", endpoint.address, exc)
            transport.close()
            self._discard(connection)
            self._stopping.wait(AWAY_PAUSE)

    def _shared_for(self, endpoint: Endpoint) -> Shared:
        if endpoint.address not in self._shared:
            shared = Shared(self._session_for(endpoint))
            if not endpoint.boundless:
                return shared
            self._shared[endpoint.address] = shared
        return self._shared[endpoint.address]

    def _forget(self, connection: GuestConnection) -> None:
        connection.join()
        self._discard(connection)

    def _discard(self, connection: GuestConnection) -> None:
        self._connections.discard(connection)
        if connection.endpoint.boundless and connection.endpoint.sock:
            self._watch(connection.endpoint)

    def _shut(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint.sock and endpoint.sock in self._selector.get_map():
                self._selector.unregister(endpoint.listener)
            endpoint.close()
        connections = [connection for connection in self.connections if connection.endpoint in endpoints]
        for connection in connections:
            connection.end()
        for connection in connections:
            connection.join()

    def _reboot(self, seconds: float, down: Callable[[], None] = lambda: None) -> None:
        """Reboot. `down` is called when the connections have ended, where the guest stays down for a while."""
        self._shut(self._fleeting)
        if seconds:
            down()
        self._pause(self._stopping, seconds)
        self._guest_reboots()
        for shared in self._shared.values():
            with shared.lock:
                shared.session.restart()
                shared.changed.notify_all()
        self._missing = self._fleeting
        self._open_again()

    # ------------------------------------------------------------------ for the connections' threads

    def _pause(self, until: threading.Event, seconds: float) -> None:
        """Wait for `seconds`, at most until `until` is set."""
        if self._sleep:
            self._sleep(seconds)
        else:
            until.wait(seconds)

    def _lose_power(self) -> None:
        self._powerless = True
        self._stopping.set()
        self._tell(lambda: None)

    def _obey(self, order: PowerOff | Reboot) -> None:
        """Let the accepting thread end everything."""
        if isinstance(order, PowerOff):
            self._lose_power()
        else:
            self._tell(partial(self._reboot, order.seconds))

    def _left(self, connection: GuestConnection) -> None:
        """Record that the thread of `connection` is about to end."""
        self._tell(partial(self._forget, connection))
