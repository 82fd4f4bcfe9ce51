"""A guest's server with threads: one that accepts, and two for each connection."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Final, Self

from stereos_proto_io.addresses import Address

from ._actions import PowerOff, Reboot
from ._blocking_link import GuestLink, Shared
from ._blocking_streams import DeviceStream, SocketStream, Stream
from ._device import AWAY_PAUSE
from ._listen import Endpoint
from ._served import Guest, Handler, Server, as_guest
from .faults import Fault

#: Bytes that are read of a bell at once.
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

    Raises OSError when an address cannot be had, ValueError when a guest cannot listen on it. The result is a
    context manager.
    """
    return GuestServer(address, as_guest(handler, faults), sleep)


class GuestServer(Server[GuestLink, Shared]):
    """What `serve` returns: a guest that is up."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest, sleep: Sleep | None) -> None:
        super().__init__(address, guest)
        self._sleep = sleep
        self._stopping = threading.Event()
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._bell, self._hears = socket.socketpair()
        # Full, it has been heard by nobody yet, and rings all the same; waiting for room, a connection that ends
        # would wait for the thread that waits for it.
        self._bell.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._hears, selectors.EVENT_READ)
        self._desk = threading.Thread(target=self._run, name=f"guest at {self.address}", daemon=True)
        if not guest.faults.refuse_time:
            self._open(self._endpoints)
        self._desk.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the guest has shut down, or for `timeout` seconds; return whether it has."""
        self._desk.join(timeout)
        return not self._desk.is_alive()

    def close(self) -> None:
        """Stop listening, end every connection, and wait until all threads have ended. Twice is fine.

        Not for a handler to call: it would wait for itself.
        """
        self._stopping.set()
        self._tell(lambda: None)
        self.join()
        self._bell.close()

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
        if self.guest.faults.refuse_time:
            self.pause(self._stopping, self.guest.faults.refuse_time)
            self._open(self._endpoints)
        while not self._stopping.is_set():
            for key, _ in self._selector.select():
                if key.fileobj is self._hears:
                    self._obey_all()
                else:
                    self._accept(key.data)
        self._shut(self._endpoints)
        self._selector.close()
        self._hears.close()

    def _obey_all(self) -> None:
        # Heard before looked: what is ordered from now on rings again.
        self._hears.recv(_BELL)
        while not self._orders.empty():
            self._orders.get()()

    def _open(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint.device:
                self._start(endpoint, DeviceStream(endpoint.take_device()))
            else:
                endpoint.listen()
                self._watch(endpoint)

    def _watch(self, endpoint: Endpoint) -> None:
        # Whoever was seen there may have gone when its turn comes.
        endpoint.listener.setblocking(False)
        self._selector.register(endpoint.listener, selectors.EVENT_READ, endpoint)

    def _accept(self, endpoint: Endpoint) -> None:
        try:
            sock, _ = endpoint.listener.accept()
        except BlockingIOError:
            # The guest has rebooted since somebody was seen there, and the listener is another one.
            return
        except OSError:
            # The host has gone again, or we are out of descriptors: the next one comes when one is free.
            self._stopping.wait(AWAY_PAUSE)
            return
        if endpoint.boundless:
            self._selector.unregister(endpoint.listener)
        self._start(endpoint, SocketStream(sock))

    def _start(self, endpoint: Endpoint, stream: Stream) -> None:
        link = GuestLink(self, endpoint, stream, self._state_for(endpoint, Shared))
        self._links.add(link)
        link.start()

    def _forget(self, link: GuestLink) -> None:
        link.join()
        self._links.discard(link)
        if link.endpoint.boundless and link.endpoint.sock:
            self._watch(link.endpoint)

    def _shut(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint.sock and endpoint.sock in self._selector.get_map():
                self._selector.unregister(endpoint.listener)
            endpoint.close()
        links = [link for link in self.connections if link.endpoint in endpoints]
        for link in links:
            link.end()
        for link in links:
            link.join()

    def _power_off(self) -> None:
        self.guest.power_off()
        self._stopping.set()

    def _reboot(self, seconds: float) -> None:
        self._shut(self._fleeting)
        self.pause(self._stopping, seconds)
        self.guest.reboot()
        for endpoint in self._fleeting:
            endpoint.bind()
        self._open(self._fleeting)
        for shared in self._lasting.values():
            with shared.changed:
                shared.session.restart()
                shared.changed.notify_all()

    # ------------------------------------------------------------------ for the connections' threads

    def pause(self, until: threading.Event, seconds: float) -> None:
        """Wait for `seconds`, at most until `until` is set."""
        if self._sleep:
            self._sleep(seconds)
        else:
            until.wait(seconds)

    def obey(self, order: PowerOff | Reboot) -> None:
        """Let the accepting thread end everything."""
        self._tell(self._power_off if isinstance(order, PowerOff) else partial(self._reboot, order.seconds))

    def left(self, link: GuestLink) -> None:
        """Take note that the thread of `link` is about to end."""
        self._tell(partial(self._forget, link))
