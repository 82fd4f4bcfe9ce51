"""Guests that do exactly what a script says, and the streams that lead to them."""

import errno
import os
import select
import socket
import ssl
import struct
import threading
import tty
from contextlib import ExitStack, contextmanager, suppress

import trio
import trio.testing

from stereos_proto import Connection as Protocol
from stereos_proto import Health, Mount, Ping, RequestReceived, Role, SetConfig, encode
from stereos_proto.dialogues import SendMany
from stereos_proto_io import TCP, HybridVsock, UnixSocket, VirtioSerial

from .harness import PATIENCE, result

PONG = b'{"type":"pong"}\n'

PING = encode(Ping())

DONE = b'{"type":"ack","payload":{"reply_to":"set_config","ok":true}}\n'

#: Longer than what a socket's buffers take, and no more than a message may be.
LONG = SetConfig("x" * 1_000_000)

MOUNT = Mount("work", "/work", "virtiofs")


@contextmanager
def scripted(script):
    """A socket to a guest that is a function of the other end, in a thread of its own."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    failure = []

    def run():
        with theirs, suppress(BrokenPipeError, ConnectionResetError):
            try:
                script(theirs)
            except (AssertionError, TimeoutError) as exc:
                failure.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    if failure:
        raise failure[0]


def lines(sock):
    """Yield the lines that come, until the end."""
    with sock.makefile("rb") as reader:
        yield from reader


@contextmanager
def pty_to(path):
    """A pseudo-terminal that leads to a unix socket, as QEMU's `-chardev pty` does; its name."""
    master, slave = os.openpty()
    tty.setraw(slave)
    guest = socket.socket(socket.AF_UNIX)
    guest.connect(path)
    stop, stopped = os.pipe()  # reading from it is never done: its end is what one waits for
    thread = threading.Thread(target=_relay, args=(master, guest, stop))
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        os.close(stopped)
        thread.join(PATIENCE)
        guest.close()
        for descriptor in (master, slave, stop):
            os.close(descriptor)


def _relay(master, guest, stop):
    ends = {master: guest.fileno(), guest.fileno(): master}
    for end in ends:
        os.set_blocking(end, False)
    unwritten = dict.fromkeys(ends, b"")
    while True:
        poll = select.poll()
        poll.register(stop)
        for end, other in ends.items():
            poll.register(end, (0 if unwritten[other] else select.POLLIN) | (select.POLLOUT if unwritten[end] else 0))
        for end, event in poll.poll():
            if event & select.POLLIN:
                unwritten[ends[end]] += os.read(end, 65536)
            elif event & (select.POLLHUP | select.POLLERR):
                return
            if event & select.POLLOUT:
                unwritten[end] = unwritten[end][os.write(end, unwritten[end]) :]


class Counting:
    """A guest whose health reports tell how many of them were asked for."""

    def __init__(self):
        self.connection = Protocol(Role.GUEST)
        self.asked = 0

    def answer(self, data):
        self.connection.receive_data(data)
        written = b""
        for event in self.connection.events():
            assert isinstance(event, RequestReceived)
            self.asked += 1
            written += self.connection.send(Health("ready", uptime_seconds=self.asked))
        return written

    def serve(self, sock):
        # The host may go while there is a reply on its way.
        with suppress(ConnectionError):
            while data := sock.recv(65536):
                sock.sendall(self.answer(data))


def echo(sock):
    """Answer each request with the ack that names it, without parsing."""
    rest = b""
    while data := sock.recv(1 << 18):
        *whole, rest = (rest + data).split(b"\n")
        sock.sendall(b"".join(b'{"type":"ack","payload":{"reply_to":%b,"ok":true}}\n' % line[8:-1] for line in whole))


ADDRESSES = {
    "tcp": lambda folder: TCP("127.0.0.1", 0),
    "unix": lambda folder: UnixSocket(folder / "guest"),
    "hybrid": lambda folder: HybridVsock(folder / "guest"),
    "serial": lambda folder: VirtioSerial(folder / "guest"),
}


class Hooked:
    """A socket in one of whose functions `then` is called, as a signal handler or a finalizer would be."""

    def __init__(self, sock, name, then):
        self.sock, self.name, self.then = sock, name, then

    def __getattr__(self, name):
        found = getattr(self.sock, name)
        if name != self.name:
            return found

        def call(*arguments):
            self.then()
            return found(*arguments)

        return call


class Wrapped(trio.abc.Stream):
    """A stream of which one knows only that it is one."""

    def __init__(self, stream):
        self.stream = stream

    async def send_all(self, data):
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self.stream.receive_some(max_bytes)

    async def aclose(self):
        await self.stream.aclose()


def fill(sock):
    """Write empty lines, which mean nothing, until there is room for no more."""
    sock.setblocking(False)
    try:
        while True:
            sock.send(b"\n" * 1000)
    except BlockingIOError:
        pass


def anonymous(kind):
    """TLS without certificates: a context of this kind."""
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES128-SHA:@SECLEVEL=0")
    return context


class Broken:
    """A socket that breaks between the dial and the client."""

    def __init__(self, sock):
        self.sock, self.calls = sock, 0

    def setblocking(self, _flag):
        self.calls += 1
        if self.calls == 2:
            raise OSError(errno.EINVAL, "Invalid argument")

    def __getattr__(self, name):
        return getattr(self.sock, name)


def wrapped(sock, *more, wrap=Wrapped):
    return wrap(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), *more)


def small_buffers():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    theirs.settimeout(PATIENCE)
    return ours, theirs


def rest(sock):
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    return bytes(data)


async def many(client, requests):
    """The outcome of each of `requests`, sent in one flight: its reply, or its error."""

    def dialogue():
        return (yield SendMany(tuple(requests), lambda _index, _outcome: None))

    return await result(client.run(dialogue()))


def pair(how):
    """A connection that ends, or is reset, when its other end is closed."""
    if how == "ends":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return ours, theirs


@contextmanager
def full_queue(path):
    """A unix socket that nobody accepts from, with a queue that takes no more."""
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as queue:
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                sock = queue.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                sock.connect(str(path))
        yield listener, queue


@contextmanager
def full_port(_folder=None):
    """A TCP port whose queue is full: who connects waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as queue:
        for _ in range(8):
            sock = queue.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield TCP(*listener.getsockname())


class Muxer:
    """The unix socket of a hybrid vsock, which answers one CONNECT with these bytes; None is silence."""

    def __init__(self, path, answer):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.answer = answer
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        sock, _ = self.listener.accept()
        with sock:
            sock.settimeout(PATIENCE)
            assert sock.recv(100) == b"CONNECT 1024\n"
            if self.answer:
                sock.sendall(self.answer)
            if self.answer is None or self.answer.startswith(b"OK 5"):
                sock.recv(100)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *exc):
        self.thread.join(PATIENCE)
        self.listener.close()
