"""The three servers, over real sockets and devices: order, limits, ends, and what they leave behind (nothing)."""

import asyncio
import errno
import json
import os
import socket
import stat
import threading
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from guest_harness import KINDS, PATIENCE, PONG, Host, ack, ask, ask_patiently, descriptors, running, terminal
from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    CustomRequest,
    InjectSecret,
    Lifecycle,
    Mount,
    Ping,
    Pong,
    SetConfig,
    Shutdown,
    encode,
)
from stereos_proto._guest_session import MAX_UNANSWERED
from stereos_proto_io import TCP, Dial, HybridVsock, UnixSocket, VirtioSerial, Vsock
from stereos_proto_io.driver import _device
from stereos_proto_io.guest import GuestSimulator, RequestRefused, _listen
from stereos_proto_io.guest import asyncio as asyncio_guest
from stereos_proto_io.guest import blocking as blocking_guest
from stereos_proto_io.guest import trio as trio_guest
from stereos_proto_io.guest._orders import Reboot
from waiting import until

MOUNT = Mount("t", "/w", "9p")

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A function that makes an address of each kind; the folder is the current one, as paths must be short."""
    monkeypatch.chdir(tmp_path)
    return {
        "tcp": TCP("127.0.0.1", 0),
        "unix": UnixSocket("guest"),
        "serial": VirtioSerial("port"),
        "hybrid": HybridVsock("muxer"),
    }


@pytest.fixture(autouse=True)
def nothing_is_left(kind):
    before = descriptors()
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("guest")]
    # Event loops keep nothing either; a descriptor that is new may have been given to something old.
    assert len(descriptors()) <= len(before)


def hello(address):
    """A host that has got through what the address wants first."""
    host = Host(address)
    if isinstance(address, HybridVsock):
        host.send(b"CONNECT %d\n" % address.port)
        assert host.line().startswith(b"OK ")
    return host


# --------------------------------------------------------------------------------------- all addresses


@pytest.mark.parametrize("where", ["tcp", "unix", "hybrid", "serial"])
def test_every_address(kind, where, place):
    simulator = GuestSimulator()
    with running(kind, place[where], simulator) as guest:
        with hello(guest.address) as host:
            host.send(Ping(), b"\r\n\n", Mount("t", "/w", "9p"), b"nonsense\n", CustomRequest("x"), Ping())
            replies = [host.reply() for _ in range(5)]
            assert replies.pop(2)["payload"].pop("error").startswith("malformed JSON: ")
            assert replies == [PONG, ack("mount"), ack("x", "unknown message type: x"), PONG]
        assert simulator.mounts == (Mount("t", "/w", "9p"),)
    if where != "tcp":
        assert not Path(guest.address.path).exists()


def test_several_addresses_are_one_guest(kind, place):
    simulator = GuestSimulator()
    with running(kind, list(place.values()), simulator) as guest:
        assert guest.address == guest.addresses[0]
        for number, address in enumerate(guest.addresses):
            with hello(address) as host:
                host.send(Mount(f"t{number}", "/w", "9p"))
                assert host.reply() == ack("mount")
        assert [mount.tag for mount in simulator.mounts] == ["t0", "t1", "t2", "t3"]


def test_many_hosts_at_once(kind):
    with running(kind, None, GuestSimulator()) as guest, ExitStack() as stack:
        hosts = [stack.enter_context(Host(guest.address)) for _ in range(20)]
        for number, host in enumerate(hosts):
            host.send(CustomRequest(f"nonce-{number}"))
        for number, host in reversed([*enumerate(hosts)]):
            assert host.reply() == ack(f"nonce-{number}", f"unknown message type: nonce-{number}")


def test_vsock_is_bound_by_port_on_any_cid(kind, monkeypatch):
    """No socket of that family is ever made here: the one that is asked for is a TCP socket in disguise."""
    made, real = [], socket.socket

    class Pretended(real):
        def __init__(self, family=-1, *rest, **more):
            made.append(family)
            super().__init__(socket.AF_INET if family == 40 else family, *rest, **more)

        def bind(self, place):
            made.append(place)
            super().bind(("127.0.0.1", 0))

    monkeypatch.setattr(socket, "AF_VSOCK", 40, raising=False)
    monkeypatch.setattr(_listen.socket, "socket", Pretended)
    endpoint = _listen.Endpoint(Vsock(3, 2048))
    endpoint.bind()
    endpoint.close()
    assert made == [40, (0xFFFFFFFF, 2048)]


def test_a_python_without_vsock_says_so(kind, monkeypatch):
    monkeypatch.delattr(socket, "AF_VSOCK", raising=False)
    with pytest.raises(OSError, match="no AF_VSOCK") as caught, running(kind, Vsock(), GuestSimulator()):
        raise AssertionError
    assert caught.value.errno == errno.EAFNOSUPPORT


def test_a_dial_is_no_place_to_listen(kind):
    with pytest.raises(ValueError, match="cannot listen on dial://x"), running(kind, Dial(int, "x"), GuestSimulator()):
        raise AssertionError


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", ["tcp://127.0.0.1:0"]])
def test_the_text_of_an_address_is_none(kind, address):
    with pytest.raises(TypeError, match="is needed, not str; parse"), running(kind, address, GuestSimulator()):
        raise AssertionError


def test_no_address_at_all(kind):
    with pytest.raises(ValueError, match="needs an address"), running(kind, [], GuestSimulator()):
        raise AssertionError


def test_stale_socket_file_is_replaced(kind, place):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("guest")
    assert stat.S_ISSOCK(Path("guest").stat().st_mode)
    with running(kind, place["unix"], GuestSimulator()) as guest:
        assert ask(guest.address, Ping()) == [PONG]


def test_live_socket_file_is_not_replaced(kind, place):
    with running(kind, place["unix"], GuestSimulator()) as guest:
        with pytest.raises(OSError, match="in use"), running(kind, place["unix"], GuestSimulator()):
            raise AssertionError
        assert ask(guest.address, Ping()) == [PONG]


def test_other_files_are_not_replaced(kind, place):
    Path("guest").write_text("precious")
    with pytest.raises(OSError, match="in use"), running(kind, place["unix"], GuestSimulator()):
        raise AssertionError
    assert Path("guest").read_text() == "precious"


def test_all_addresses_or_none(kind, place):
    Path("muxer").touch()
    with pytest.raises(OSError, match="in use"), running(kind, [place["unix"], place["hybrid"]], GuestSimulator()):
        raise AssertionError
    assert not Path("guest").exists()


# --------------------------------------------------------------------------------------- hybrid vsock


@pytest.mark.parametrize(
    "opening", [b"CONNECT 1025\n", b"CONNECT\n", b"GET / HTTP/1.0\n", b"CONNECT 1x\n", b"\n", b"CONNECT 10", b"x" * 99]
)
def test_muxer_refuses_without_a_byte(kind, opening, place):
    with running(kind, place["hybrid"], GuestSimulator()) as guest, Host(guest.address) as host:
        host.send(opening)
        assert host.rest() == b""


@pytest.mark.parametrize("port", [0, 1024, 2**32 - 1])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_muxer_connects(kind, port, ending, place):
    with running(kind, HybridVsock("muxer", port), GuestSimulator()) as guest, Host(guest.address) as host:
        host.send(b"CONNECT %d" % port + ending)
        word, number = host.line().split()
        assert word == b"OK"
        assert int(number) != port
        host.send(Ping())
        assert host.reply() == PONG


# --------------------------------------------------------------------------------------- virtio-serial


def test_serial_socket_glues_half_lines(kind, place):
    simulator = GuestSimulator()
    with running(kind, place["serial"], simulator) as guest:
        with Host(guest.address) as first:
            first.send(Ping())
            assert first.reply() == PONG
            first.send(b'{"type":"moun')
        with Host(guest.address) as second:
            second.send(b't","payload":{"tag":"t","guest_path":"/w","fs_type":"9p"}}\n')
            assert second.reply() == ack("mount")
    assert simulator.mounts == (Mount("t", "/w", "9p"),)


def test_serial_socket_gives_stale_replies_to_the_next_host(kind, place):
    entered, release = threading.Event(), threading.Event()
    answer = _deferred(kind, entered, release)
    with running(kind, place["serial"], answer) as guest:
        with Host(guest.address) as first:
            first.send(Mount("t", "/w", "9p"))
            assert entered.wait(PATIENCE)
        with Host(guest.address) as second:
            second.send(Ping())
            assert second.is_silent()
            release.set()
            assert [second.reply(), second.reply()] == [ack("mount"), PONG]


def _deferred(kind, entered, release):
    """A handler that answers a mount when released, and lets the server go on meanwhile."""
    simulator = GuestSimulator()

    def wait():
        entered.set()
        assert release.wait(PATIENCE)

    def blocking(request):
        if not isinstance(request, Mount):
            return simulator.handle(request)
        future = Future()

        def work():
            wait()
            future.set_result(simulator.handle(request))

        threading.Thread(target=work).start()
        return future

    async def on_asyncio(request):
        if isinstance(request, Mount):
            await asyncio.to_thread(wait)
        return simulator.handle(request)

    async def on_trio(request):
        if isinstance(request, Mount):
            await trio.to_thread.run_sync(wait)
        return simulator.handle(request)

    return {"blocking": blocking, "asyncio": on_asyncio, "trio": on_trio}[kind]


def test_serial_socket_serves_one_host_at_a_time(kind, place):
    with running(kind, place["serial"], GuestSimulator()) as guest, Host(guest.address) as first:
        first.send(Ping())
        assert first.reply() == PONG
        with Host(guest.address) as second:
            second.send(CustomRequest("sync:2"))
            assert second.is_silent()
            first.send(Ping())
            assert first.reply() == PONG
            first.socket.close()
            assert second.reply() == ack("sync:2", "unknown message type: sync:2")


def test_serial_survives_an_over_long_line(kind, place):
    with running(kind, place["serial"], GuestSimulator()) as guest, Host(guest.address) as host:
        host.send(Ping(), b"x" * MAX_LINE_SIZE, b"\n")
        assert host.reply() == PONG
        # What came with the end of that line may be lost with it: a host repeats, with a new nonce.
        for attempt in range(100):
            host.send(b"\n", CustomRequest(f"sync:{attempt}"))
            if not host.is_silent(0.2):
                break
        replies = [host.reply()]
        while not replies[-1]["payload"]["reply_to"]:
            replies.append(host.reply())
        assert replies[-1]["payload"]["reply_to"].startswith("sync:")


def read_lines(descriptor, count):
    data = b""
    while data.count(b"\n") < count:
        data += os.read(descriptor, 65536)
    return [json.loads(line) for line in data.splitlines()]


def test_character_device_that_somebody_has_open(kind, place, monkeypatch):
    """A server that does not have the port says so at once, and gives back what it has."""

    def busy(path, *_args):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    with terminal() as (_master, path, _slave):
        monkeypatch.setattr(_device.os, "open", busy)
        with (
            pytest.raises(OSError, match="busy"),
            running(kind, [place["unix"], VirtioSerial(path)], GuestSimulator()),
        ):
            pass
    assert not Path("guest").exists()


def test_character_device_of_a_guest_that_never_listens(kind):
    with terminal() as (_master, path, _slave), running(kind, VirtioSerial(path), GuestSimulator(faults=["refuse:9s"])):
        pass


def test_character_device(kind):
    simulator = GuestSimulator()
    with terminal() as (master, path, _slave), running(kind, VirtioSerial(path), simulator) as guest:
        assert guest.address == VirtioSerial(path)
        os.write(master, encode(Ping()) + b'{"type":"pi')
        assert read_lines(master, 1) == [PONG]
        os.write(master, b'ng"}\n')
        assert read_lines(master, 1) == [PONG]
        assert guest.push(Lifecycle("ready")) == 1
        assert read_lines(master, 1) == [{"type": "lifecycle", "payload": {"state": "ready"}}]


def test_character_device_takes_long_replies_in_pieces(kind):
    long = "x" * 200_000
    with terminal() as (master, path, _slave), running(kind, VirtioSerial(path), lambda r: Ack(r.type, False, long)):
        os.write(master, encode(CustomRequest("a")) + encode(CustomRequest("b")))
        assert read_lines(master, 2) == [ack("a", long), ack("b", long)]


def test_character_device_whose_host_is_away(kind, monkeypatch):
    """Reading nothing and writing nothing is no end: it is tried again, by the clock, until the host is back."""
    away = {"read": 4, "write": 4}

    class Lonely(_device.Device):
        @property
        def is_away(self):
            return any(away.values()) or super().is_away

        def recv(self, size):
            away["read"] -= bool(away["read"])
            return super().recv(size) if not away["read"] else b""

        def send(self, data):
            away["write"] -= bool(away["write"])
            if away["write"]:
                raise BlockingIOError
            return super().send(data)

    monkeypatch.setattr(_listen, "Device", Lonely)
    with terminal() as (master, path, _slave), running(kind, VirtioSerial(path), GuestSimulator()):
        os.write(master, encode(Ping()) * 2)
        assert read_lines(master, 2) == [PONG, PONG]
    assert away == {"read": 0, "write": 0}


def test_character_device_answers_a_flight_that_comes_at_once(kind, monkeypatch):
    """However many replies are due after one read, writing the next is not done from within writing the last."""
    requests = [encode(Ping()) * 250]

    class Full(_device.Device):
        def recv(self, size):
            # A terminal gives little at a time, and a virtio-serial port all that there is.
            if not (super().recv(size) and requests):
                raise BlockingIOError
            return requests.pop()

    monkeypatch.setattr(_listen, "Device", Full)
    with terminal() as (master, path, _slave), running(kind, VirtioSerial(path), GuestSimulator()):
        os.write(master, b"\n")
        assert read_lines(master, 250) == [PONG] * 250


@pytest.mark.parametrize("size", [10, 300_000])
def test_character_device_closes_while_nobody_reads(kind, size):
    answer = "x" * size
    with terminal() as (master, path, _slave), running(kind, VirtioSerial(path), lambda r: Ack(r.type, False, answer)):
        os.write(master, encode(CustomRequest("a")) * 3)
        assert os.read(master, 1) == b"{"


def test_a_pseudo_terminal_without_its_other_end_is_away(kind):
    master, slave = os.openpty()
    device = _device.Device(os.ttyname(slave))
    os.close(slave)
    with pytest.raises(BlockingIOError):
        device.recv(10)
    assert not device.is_away
    os.close(master)
    assert device.recv(10) == b""
    assert device.is_away
    for _ in range(2):
        device.close()
    with pytest.raises(OSError, match="Bad file"):
        device.recv(10)


@pytest.mark.parametrize("_again", range(5))
def test_character_device_powers_off(kind, _again):
    """Its threads may be through before the guest gets to telling them."""
    with terminal() as (master, path, _slave), running(kind, VirtioSerial(path), GuestSimulator()) as guest:
        os.write(master, encode(Shutdown()))
        assert read_lines(master, 1) == [ack("shutdown")]
        assert guest.join()


# ------------------------------------------------------------------------------------ order and replies


def test_handler_may_refuse_fail_and_err(kind):
    def handler(request):
        match request.type:
            case "refuse":
                raise RequestRefused("no such thing")
            case "fail":
                raise ZeroDivisionError("with a secret in its text")
            case "nothing":
                return None
            case "long":
                return Ack(request.type, False, "x" * MAX_LINE_SIZE)
            case "other":
                return Pong()
        return Ack(request.type, True)

    types = ["refuse", "fail", "nothing", "long", "other", "fine"]
    with running(kind, None, handler) as guest:
        replies = ask(guest.address, *map(CustomRequest, types))
    errors = [reply["payload"].get("error") for reply in replies]
    assert [reply["payload"]["reply_to"] for reply in replies] == types
    assert errors[:3] == [
        "no such thing",
        "internal error: ZeroDivisionError",
        "internal error: the handler returned a NoneType, which is not a reply",
    ]
    assert errors[3].startswith("internal error: cannot send ack: the line would be")
    assert errors[4] == "internal error: cannot send pong: pong does not answer other, the oldest unanswered request"
    assert errors[5] is None


def test_answers_in_any_order_go_out_in_the_order_of_the_requests(kind):
    asked, answers = [], []
    all_asked = threading.Event()

    def note(request):
        asked.append(request.type)
        if len(asked) == 5:
            all_asked.set()

    def blocking(request):
        future = Future()
        answers.append((request, future))
        note(request)
        if all_asked.is_set():
            for waiting, it in reversed(answers):
                it.set_result(Ack(waiting.type, True))
        return future

    def later(make_event):
        events = []

        async def handler(request):
            mine = make_event()
            events.append(mine)
            note(request)
            if len(events) == 5:
                events[-1].set()
            await mine.wait()
            answers.append(request)
            index = events.index(mine)
            if index:
                events[index - 1].set()
            return Ack(request.type, True)

        return handler

    handler = blocking if kind == "blocking" else later(asyncio.Event if kind == "asyncio" else trio.Event)
    types = [f"t{number}" for number in range(5)]
    with running(kind, None, handler) as guest:
        assert ask(guest.address, *map(CustomRequest, types)) == [ack(type_) for type_ in types]
    assert sorted(asked) == types


def test_handlers_that_answer_later_may_fail(kind):
    def blocking(request):
        future = Future()
        if request.type == "cancel":
            future.cancel()
        elif request.type == "refuse":
            future.set_exception(RequestRefused("no"))
        else:
            future.set_exception(OSError())
        return future

    async def later(request):
        raise {"refuse": RequestRefused("no"), "cancel": LookupError()}.get(request.type, OSError())

    with running(kind, None, blocking if kind == "blocking" else later) as guest:
        assert ask(guest.address, *map(CustomRequest, ["refuse", "fail", "cancel"])) == [
            ack("refuse", "no"),
            ack("fail", "internal error: OSError"),
            ack("cancel", f"internal error: {'CancelledError' if kind == 'blocking' else 'LookupError'}"),
        ]


def test_pushes_reach_one_or_all(kind):
    with running(kind, None, GuestSimulator()) as guest, Host(guest.address) as one, Host(guest.address) as two:
        for host in (one, two):
            host.send(Ping())
            assert host.reply() == PONG
        assert guest.connections == 2
        assert guest.push(Lifecycle("healthy", "agents run")) == 2
        told = {"type": "lifecycle", "payload": {"state": "healthy", "message": "agents run"}}
        assert (one.reply(), two.reply()) == (told, told)
        assert guest.push_to(0, Lifecycle("degraded"))
        for host in (one, two):
            host.send(Ping())
        replies = [[host.reply()] for host in (one, two)]
        alone = {"type": "lifecycle", "payload": {"state": "degraded"}}
        for host, heard in zip((one, two), replies, strict=True):
            while heard[-1] != PONG:
                heard.append(host.reply())
        assert sorted(replies, key=len) == [[PONG], [alone, PONG]]


# ------------------------------------------------------------------------------------------------ ends


def test_half_close_still_gets_its_replies(kind):
    entered, release = threading.Event(), threading.Event()
    with running(kind, None, _deferred(kind, entered, release)) as guest, Host(guest.address) as host:
        host.send(Mount("t", "/w", "9p"), encode(Ping()).rstrip(b"\n"))
        host.end()
        assert entered.wait(PATIENCE)
        release.set()
        assert [json.loads(line) for line in host.rest().splitlines()] == [ack("mount"), PONG]


def test_half_a_line_at_the_end_is_answered(kind):
    with running(kind, None, GuestSimulator()) as guest:
        assert ask(guest.address, Ping(), b'{"type":') == [
            PONG,
            ack("", "malformed JSON: unexpected end of JSON input"),
        ]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("over", [0, 1])
def test_longest_line(kind, ending, over):
    """1,048,575 bytes of content and a newline, one less before "\\r\\n", as many before the end (§1)."""
    room = MAX_LINE_SIZE - max(len(ending), 1)
    start, end = b'{"type":"x","payload":"', b'"}'
    line = start + b"v" * (room - len(start) - len(end) + over) + end + ending
    with running(kind, None, GuestSimulator()) as guest, Host(guest.address) as host:
        host.send(Ping())
        try:
            host.send(line)
            if not ending:
                host.end()
        except OSError:
            assert over  # it closed while we were still writing
        assert host.reply() == PONG
        try:
            assert host.reply() == (None if over else ack("x", "unknown message type: x"))
        except ConnectionResetError:
            assert over


def test_vanishing_hosts_cost_nothing(kind):
    """Also those that vanish in mid-request, in mid-reply, and without a word."""
    long = "x" * 100_000
    with running(kind, None, lambda r: Ack(r.type, False, long)) as guest:
        for reset in (True, False):
            for sent in (b"", b'{"type', b'{"type":"x"}\n' * 100):
                host = Host(guest.address)
                host.send(sent)
                if reset:
                    _listen.reset_on_close(host.socket)
                host.socket.close()
        assert ask(guest.address, CustomRequest("x")) == [ack("x", long)]
        for _ in range(PATIENCE * 100):
            if not guest.connections:
                break
            threading.Event().wait(0.01)
        assert guest.connections == 0


def test_shutdown_acks_first_then_ends_everything(kind, place):
    simulator = GuestSimulator()
    with running(kind, [place["tcp"], place["unix"], place["hybrid"], place["serial"]], simulator) as guest:
        with ExitStack() as stack:
            hosts = [stack.enter_context(hello(address)) for address in guest.addresses]
            for host in hosts:
                host.send(Ping())
                assert host.reply() == PONG
            hosts[0].send(Shutdown("bye"))
            assert hosts[0].reply() == ack("shutdown")
            assert [host.rest() for host in hosts] == [b""] * 4
        assert guest.join()
        assert simulator.shutdown_reason == "bye"
        for address in guest.addresses:
            with pytest.raises(OSError, match=r"refused|No such file"):
                Host(address)


def test_a_refused_shutdown_ends_nothing(kind):
    with running(kind, None, lambda r: Ack("shutdown", False, "not now")) as guest:
        assert ask(guest.address, Shutdown(), Shutdown()) == [ack("shutdown", "not now")] * 2


def test_closing_with_hosts_that_do_not_read(kind):
    """Nobody reads the replies, and the guest goes all the same."""
    with running(kind, None, lambda r: Ack(r.type, False, "x" * 500_000)) as guest:
        host = Host(guest.address)
        host.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                host.socket.send(b'{"type":"x"}\n' * 1000)
    host.socket.close()


# ---------------------------------------------------------------------------------------- backpressure


def test_reading_stops_while_too_much_is_owed(kind):
    """The guest holds a bounded number of requests, whatever the host sends; and answers them all in the end."""
    count = MAX_UNANSWERED * 4
    entered, release = threading.Event(), threading.Event()
    handled = []
    inner = _deferred(kind, entered, release)

    def counted(request):
        handled.append(request)
        return inner(request)

    with running(kind, None, counted) as guest, Host(guest.address) as host:
        host.send(Mount("t", "/w", "9p"), *[CustomRequest(f"n{number}") for number in range(count)])
        assert entered.wait(PATIENCE)
        host.end()
        assert len(handled) <= MAX_UNANSWERED
        release.set()
        types = [json.loads(line)["payload"]["reply_to"] for line in host.rest().splitlines()]
    assert types == ["mount", *[f"n{number}" for number in range(count)]]
    assert len(handled) == count + 1


def test_reading_stops_while_the_host_does_not_read(kind):
    handled = []
    size = 64 * 1024

    def handler(request):
        handled.append(request)
        return Ack(request.type, False, "x" * size)

    request = encode(CustomRequest("x", "y" * size))
    with running(kind, None, handler) as guest, Host(guest.address) as host:
        host.socket.setblocking(False)
        sent = stuck = 0
        while stuck < 20:
            try:
                sent += host.socket.send((request * 2)[sent % len(request) :])
                stuck = 0
            except BlockingIOError:
                stuck += 1
                threading.Event().wait(0.01)
        read_by_guest = len(handled) * len(request)
        assert sent > read_by_guest  # it has stopped, and what is left is the kernel's to keep
        host.socket.settimeout(PATIENCE)
        for _ in range(sent // len(request)):
            assert host.reply()["payload"]["reply_to"] == "x"


def test_pushes_nobody_reads_are_dropped(kind):
    with running(kind, None, GuestSimulator()) as guest, Host(guest.address) as host:
        host.send(Ping())
        assert host.reply() == PONG
        pushed = 0
        while guest.push(Lifecycle("ready", "x" * 100_000)):
            pushed += 1
            assert pushed < 10_000
        for _ in range(pushed):
            assert host.reply()["type"] == "lifecycle"


def test_config_of_a_megabyte(kind):
    simulator = GuestSimulator()
    content = "# " + "x" * 1_000_000
    with running(kind, None, simulator) as guest:
        assert ask(guest.address, SetConfig(content), Ping()) == [ack("set_config"), PONG]
    assert simulator.config == content


def test_faults_belong_to_the_guest(kind):
    with pytest.raises(TypeError, match="to the guest object"), running(kind, None, GuestSimulator(), faults=["reset"]):
        raise AssertionError


def test_join_has_a_timeout(kind):
    with blocking_guest.serve(TCP("127.0.0.1", 0), GuestSimulator()) as server:
        assert not server.join(0)
        server.close()
        assert server.join(0)
        assert server.connections == ()


def ends(work):
    """Whether `work` ends, done by a thread that nobody waits for otherwise."""
    over = threading.Event()
    threading.Thread(target=lambda: (work(), over.set()), daemon=True).start()
    return over.wait(PATIENCE)


def test_closing_while_more_hosts_leave_than_a_bell_can_ring(kind):
    """Each of them tells the thread that accepts, which waits for them meanwhile."""
    with ExitStack() as serving, ExitStack() as stack:
        guest = serving.enter_context(running(kind, None, GuestSimulator()))
        # A socket pair takes some 280 bytes that nobody reads.
        hosts = [stack.enter_context(Host(guest.address)) for _ in range(350)]
        for host in hosts:
            host.send(Ping())
        assert [host.reply() for host in hosts] == [PONG] * len(hosts)
        assert ends(serving.pop_all().close)


def test_a_host_that_comes_as_the_guest_reboots(kind):
    """Its listener is another one when its turn comes, and nobody is there to be accepted."""
    server = blocking_guest.serve(TCP("127.0.0.1", 0), GuestSimulator())
    busy, go_on = threading.Event(), threading.Event()
    server._tell(lambda: (busy.set(), go_on.wait(PATIENCE)))
    assert busy.wait(PATIENCE)
    server._obey(Reboot(0.0))
    with Host(server.address):
        go_on.set()
        assert ends(server.close)


def test_nobody_is_waited_for_where_a_host_was_seen(kind):
    with blocking_guest.serve(TCP("127.0.0.1", 0), GuestSimulator()) as server:
        assert ends(lambda: server._accept(server._endpoints[0]))


# -- what ends a server --------------------------------------------------------------------------------------


def test_an_error_of_the_caller_comes_out_by_itself(kind):
    """The nursery of a server is nothing of the caller's."""
    error = ValueError("mine")

    async def async_main():
        async with asyncio_guest.serve(TCP("127.0.0.1", 0), lambda request: Pong()):
            raise error

    async def trio_main():
        async with trio_guest.serve(TCP("127.0.0.1", 0), lambda request: Pong()):
            raise error

    def blocking_main():
        with blocking_guest.serve(TCP("127.0.0.1", 0), lambda request: Pong()):
            raise error

    mains = {
        "blocking": blocking_main,
        "asyncio": lambda: asyncio.run(async_main()),
        "trio": lambda: trio.run(trio_main),
    }
    with pytest.raises(ValueError, match=r"^mine$") as caught:
        mains[kind]()
    assert caught.value is error


def test_wait_off_ends_with_the_server(kind):
    if kind == "blocking":
        server = blocking_guest.serve(TCP("127.0.0.1", 0), lambda request: Pong())
        server.close()
        assert server.join(0)
        return

    async def async_main():
        async with asyncio_guest.serve(TCP("127.0.0.1", 0), lambda request: Pong()) as server:
            waiting = asyncio.ensure_future(server.wait_off())
            await asyncio.sleep(0)
        await asyncio.wait_for(waiting, PATIENCE)

    async def trio_main():
        async with trio.open_nursery() as nursery:
            async with trio_guest.serve(TCP("127.0.0.1", 0), lambda request: Pong()) as server:
                nursery.start_soon(server.wait_off)
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
        assert not nursery.cancel_scope.cancelled_caught

    asyncio.run(async_main()) if kind == "asyncio" else trio.run(trio_main)


def test_a_host_is_told_nothing_of_a_handler_that_ends_with_its_server(kind):
    """A refusal would say that the guest did not do it."""
    begun = threading.Event()

    async def asyncio_handler(request):
        begun.set()
        await asyncio.sleep(PATIENCE)

    async def trio_handler(request):
        begun.set()
        await trio.sleep(PATIENCE)

    def blocking_handler(request):
        begun.set()
        return Future()

    handler = {"asyncio": asyncio_handler, "trio": trio_handler, "blocking": blocking_handler}[kind]
    with ExitStack() as stack:
        with running(kind, None, handler) as guest:
            host = stack.enter_context(Host(guest.address))
            host.send(Mount("t", "/w", "9p"))
            assert begun.wait(PATIENCE)
        assert host.rest() == b""


def test_the_file_of_another_guest_is_left_alone(kind, place):
    with running(kind, place["unix"], lambda request: Pong()) as old:
        Path("guest").unlink()
        Path("guest").write_text("another's", encoding="utf-8")
        assert old.address == place["unix"]
    assert Path("guest").read_text(encoding="utf-8") == "another's"


@pytest.mark.parametrize(("handler", "words"), [(GuestSimulator, "is a class: call it"), (5, "not int")])
def test_what_is_no_handler_is_refused_before_anything_is_bound(kind, handler, words, place):
    with pytest.raises(TypeError, match=words), running(kind, place["unix"], handler):
        pass
    assert not Path("guest").exists()


def test_an_address_that_another_guest_listens_on(kind):
    """With SO_REUSEADDR it can be bound, and not listened on. Nothing stays open."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        address = TCP(*other.getsockname())

        def listen_first(endpoint, listen=_listen.Endpoint.listen):
            other.listen()
            listen(endpoint)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_listen.Endpoint, "listen", listen_first)
            with pytest.raises(OSError, match="in use"), running(kind, address, lambda request: Pong()):
                pass


# -- a reboot and a power-off that the caller asks for ---------------------------------------------------------


@contextmanager
def watched(kind, address=None, **options):
    """A served simulator with a secret, a host that has asked for it, and what a caller may do with the server."""
    simulator = GuestSimulator(**options)
    with running(kind, address, simulator) as guest, Host(guest.address) as host:
        host.send(InjectSecret("a", "v"), MOUNT)
        assert [host.reply(), host.reply()] == [ack("inject_secret"), ack("mount")]
        yield simulator, guest, host


def test_a_reboot_that_is_asked_for_ends_connections(kind):
    with watched(kind) as (simulator, guest, host):
        guest.reboot()
        assert host.rest() == b""
        assert ask_patiently(guest.address, Ping()) == [PONG]
        assert (simulator.secrets, simulator.mounts) == ({}, ())


def test_a_reboot_that_is_asked_for_takes_its_time(kind):
    with watched(kind) as (_, guest, host):
        guest.reboot(3600)
        assert host.rest() == b""
        with pytest.raises(OSError, match="refused"):
            Host(guest.address)
        guest.power_off()
        assert guest.join()


def test_a_guest_is_rebooted_again_and_again(kind):
    with running(kind, None, GuestSimulator()) as guest:
        for _ in range(3):
            guest.reboot()
            assert ask_patiently(guest.address, Ping()) == [PONG]


def test_a_power_off_that_is_asked_for_ends_the_guest(kind):
    with watched(kind) as (simulator, guest, host):
        guest.power_off()
        assert host.rest() == b""
        assert guest.join()
        with pytest.raises(OSError, match="refused"):
            Host(guest.address)
        guest.power_off()
        with pytest.raises(RuntimeError, match="the guest is off"):
            guest.reboot()
        assert simulator.mounts == (MOUNT,)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_a_reboot_takes_a_time(kind, seconds):
    with (
        running(kind, None, GuestSimulator()) as guest,
        pytest.raises(ValueError, match="seconds must be 0 or more"),
    ):
        guest.reboot(seconds)


def test_a_reboot_in_a_handler(kind):
    """It would wait for itself."""
    served = []

    def handler(request):
        if isinstance(request, Mount):
            served[0].server.reboot()
        return Pong() if isinstance(request, Ping) else Ack(request.type, True)

    with running(kind, None, handler) as guest:
        served.append(guest)
        with Host(guest.address) as host:
            host.send(MOUNT)
            host.rest()
        assert ask_patiently(guest.address, Ping()) == [PONG]


def test_a_power_off_in_a_handler(kind):
    served = []

    def handler(request):
        served[0].server.power_off()
        return Ack(request.type, True)

    with running(kind, None, handler) as guest:
        served.append(guest)
        with Host(guest.address) as host:
            host.send(MOUNT)
            host.rest()
        assert guest.join()


def test_a_reboot_as_the_server_ends(kind):
    """Its thread is gone before it looks at what it was told."""
    server = blocking_guest.serve(TCP("127.0.0.1", 0), GuestSimulator())
    busy, go_on = threading.Event(), threading.Event()
    server._tell(lambda: (busy.set(), go_on.wait(PATIENCE)))
    assert busy.wait(PATIENCE)
    over = threading.Event()
    threading.Thread(target=lambda: (server.reboot(), over.set()), daemon=True).start()
    until(lambda: server._waiting)
    server._stopping.set()
    go_on.set()
    assert over.wait(PATIENCE)
    server.close()


def test_a_server_shows_where_it_listens(kind):
    with running(kind, None, GuestSimulator()) as guest:
        assert repr(guest.server) == f"<GuestServer {guest.address} connections=0>"
