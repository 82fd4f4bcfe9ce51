"""What an error is called, whether another try may help, and what it does to the stream."""

import errno
import os
import socket
import threading
from contextlib import ExitStack
from functools import partial

import pytest

from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    ConnectError,
    ConnectionLost,
    CustomRequest,
    LocalProtocolError,
    MalformedLine,
    Ping,
    Pong,
    PreambleError,
    PreambleFailure,
    encode,
)
from stereos_proto_io import TCP, HybridVsock, UnixSocket, VirtioSerial, Vsock
from stereos_proto_io._errors import connect_error, nobody_listens
from stereos_proto_io.driver import attempts

from .guests import PING, PONG, lines, scripted
from .harness import PATIENCE, attached, company, each_driver, entered, result, run, some_turns, until

ADDRESS = UnixSocket("/run/vm.sock")

#: What somebody has to change first. Everything else may pass by itself.
FINAL = {
    errno.EACCES: "permission denied; see the socket's owner and mode",
    errno.EPERM: "permission denied",
    errno.ENOTSOCK: "this is not a socket",
    errno.ENOTTY: "only a terminal or a virtio-serial port can be used",
    errno.ENOTDIR: "a component of the path is not a directory",
    errno.ENAMETOOLONG: "the path is too long",
    errno.EAFNOSUPPORT: "this system does not know this kind of address",
    errno.EPROTOTYPE: "this is a socket of another type",
}

PASSING = {
    errno.ECONNREFUSED: "nobody listens there yet",
    errno.ECONNRESET: "it was reset: nobody listens there yet",
    errno.EPIPE: "it was closed at once: nobody listens there yet",
    errno.ENOENT: "there is no such socket yet",
    errno.ENODEV: "no virtual machine with this CID is running",
    errno.ETIMEDOUT: "no answer; is the guest booting, or paused?",
    errno.EHOSTUNREACH: "the host is not reachable",
    errno.ENETUNREACH: "the network is not reachable",
    errno.EAGAIN: "its queue of waiting connections is full",
    errno.EBUSY: "another program has it open",
}

#: What is seen only where nobody is there.
NOBODY = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ENOENT, errno.ENODEV}


@pytest.mark.parametrize("number", [*FINAL, *PASSING, errno.EMFILE, errno.EIO])
def test_only_some_errors_say_that_nobody_is_there(number):
    for address in (ADDRESS, TCP("localhost", 1), Vsock(3)):
        gone = number in NOBODY or (number == errno.ETIMEDOUT and isinstance(address, Vsock))
        assert nobody_listens(address, connect_error(address, OSError(number, os.strerror(number)))) == gone


def test_a_name_error_never_says_that_nobody_is_there():
    """Its numbers are a name space of their own: on some systems they overlap with errno's."""
    for number in (socket.EAI_NONAME, socket.EAI_AGAIN, errno.ENOENT):
        assert not nobody_listens(ADDRESS, connect_error(ADDRESS, socket.gaierror(number, "no")))


@pytest.mark.parametrize("failure", PreambleFailure)
def test_a_preamble_says_that_nobody_is_there_by_its_end(failure):
    error = connect_error(ADDRESS, PreambleError("no", failure=failure))
    assert nobody_listens(ADDRESS, error) == (failure in (PreambleFailure.NOBODY_LISTENS, PreambleFailure.CUT))


@pytest.mark.parametrize("cause", [None, TimeoutError("no answer in time")])
def test_an_error_without_a_number_does_not_say_that_nobody_is_there(cause):
    error = ConnectError("late")
    error.__cause__ = cause
    assert not nobody_listens(Vsock(3), error)


@pytest.mark.parametrize("number", sorted(errno.errorcode), ids=errno.errorcode.get)
def test_every_errno(number):
    cause = OSError(number, os.strerror(number))
    error = connect_error(ADDRESS, cause)
    meaning = FINAL.get(number) or PASSING.get(number) or "the system refused it"
    assert type(error) is ConnectError
    assert str(error).startswith(f"cannot connect to unix:///run/vm.sock: {meaning}")
    assert os.strerror(number) in str(error)
    assert error.retryable is (number not in FINAL)
    assert error.__cause__ is cause


def test_errors_without_a_number():
    """What an address says, and what the function of a `Dial` raises: neither passes by itself."""
    for cause in (OSError("odd"), ValueError("odd")):
        error = connect_error(ADDRESS, cause)
        assert str(error).startswith("cannot connect to unix:///run/vm.sock: ")
        assert "odd" in str(error)
        assert not error.retryable


def test_a_name_that_is_not_found():
    error = connect_error(TCP("nowhere"), socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert str(error).startswith("cannot connect to tcp://nowhere:1024: this name is not known")
    assert error.retryable


def test_numbers_of_name_lookups_are_no_errnos():
    # They are small numbers, negative on Linux and positive on macOS, where 2 is EAI_AGAIN and not ENOENT.
    for number in (2, 8, -2):
        assert "this name is not known" in str(connect_error(TCP("nowhere"), socket.gaierror(number, "text")))


def test_the_time_is_up():
    error = connect_error(Vsock(7), TimeoutError())
    assert str(error) == "cannot connect to vsock://7:1024: no answer in time; is the guest booting, or paused?"
    assert error.retryable


@pytest.mark.parametrize("failure", PreambleFailure)
def test_a_failed_preamble(failure):
    cause = PreambleError("said something else", failure=failure)
    error = connect_error(HybridVsock("/s"), cause)
    assert str(error) == "cannot connect to hvsock:///s:1024: said something else"
    assert error.retryable is failure.retryable
    assert error.__cause__ is cause


def test_without_vsock(monkeypatch):
    monkeypatch.delattr(socket, "AF_VSOCK", raising=False)
    with pytest.raises(ConnectError) as caught:
        attempts(Vsock(7))
    error = caught.value
    assert str(error).startswith("cannot connect to vsock://7:1024: ")
    assert "this Python has no AF_VSOCK" in str(error)
    assert not error.retryable


@each_driver
def test_a_protocol_error_closes_the_stream(driver):
    """At once, and not when the caller comes round to close the client."""

    def guest(sock):
        assert sock.recv(100) == PING
        sock.sendall(b"login: ")
        sock.sendall(b"\n")
        assert sock.recv(1) == b""
        closed.set()

    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(MalformedLine):
                await result(client.ping())
            await until(driver, closed.is_set)

    closed = threading.Event()
    with scripted(guest) as ours:
        run(driver, main)


@each_driver
def test_a_protocol_error_behind_the_opening_closes_the_stream(driver, tmp_path):
    def muxer():
        sock, _ = listener.accept()
        hosts.enter_context(sock)
        assert sock.recv(100) == b"CONNECT 1024\n"
        sock.sendall(b"OK 5\nlogin: \n")
        sock.setblocking(False)
        accepted.append(sock)

    async def main():
        async with entered(driver.module.connect(HybridVsock(tmp_path / "h"))) as client:
            with pytest.raises(ConnectionLost, match="ping was not sent"):
                await result(client.ping())
            thread.join(PATIENCE)
            await some_turns(driver)
            assert accepted[0].recv(1) == b""

    accepted = []
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as hosts:
        listener.bind(str(tmp_path / "h"))
        listener.listen()
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=muxer)
        thread.start()
        run(driver, main)
        thread.join(PATIENCE)


PLACES = {
    "a folder": (lambda path: path.mkdir(), "is a directory, not a socket", False),
    "a file": (lambda path: path.write_text(""), "is a file, not a socket", False),
    "nothing": (lambda path: None, "there is no such socket yet", True),
    "below a file": (
        lambda path: path.parent.joinpath("f").write_text(""),
        "a component of the path is not a directory",
        False,
    ),
}


@each_driver
@pytest.mark.parametrize("kind", [UnixSocket, HybridVsock, VirtioSerial])
@pytest.mark.parametrize("place", PLACES)
def test_what_stands_at_a_path(driver, kind, place, tmp_path):
    """A wait for a guest is over at once where another try cannot help."""
    make, text, retryable = PLACES[place]
    path = tmp_path / "s"
    make(path)
    address = kind(tmp_path / "f" / "s" if place == "below a file" else path)

    async def dial():
        async with entered(driver.module.connect(address)):
            pass

    async def wait():
        async with entered(driver.module.connect_when_ready(address, timeout=0.2)):
            pass

    with pytest.raises(ConnectError, match=text) as caught:
        driver.run(dial)
    assert caught.value.retryable is retryable
    if not retryable:
        with pytest.raises(ConnectError, match=text):
            driver.run(wait)


@each_driver
def test_the_text_of_the_system_is_in_the_error(driver, tmp_path):
    async def dial(address):
        async with entered(driver.module.connect(address)):
            pass

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for address, number in (
            (TCP(*unused.getsockname()), errno.ECONNREFUSED),
            (UnixSocket(tmp_path / "none"), errno.ENOENT),
        ):
            with pytest.raises(ConnectError) as caught:
                driver.run(lambda address=address: dial(address))
            assert os.strerror(number) in str(caught.value)
            assert caught.value.__cause__.errno == number


@each_driver
def test_a_request_that_cannot_be_written_any_more_when_its_turn_comes(driver):
    """Beyond a megabyte of waiting lines, a request is encoded once more when it is written."""
    big, payload = CustomRequest("big", {"a": "x" * (MAX_LINE_SIZE - 100)}), {"a": "x" * 200}
    go, over = threading.Event(), threading.Event()

    def script(sock):
        received = lines(sock)
        assert next(received) == PING
        assert go.wait(PATIENCE)
        sock.sendall(PONG)
        next(received)
        sock.sendall(encode(Ack("big", ok=True)))
        assert over.wait(2 * PATIENCE)

    async def main(sock):
        async with attached(driver, sock, max_pending=1) as client, company(driver) as begin:
            found = []
            for number, request in enumerate([Ping(), big, CustomRequest("later", payload)], 1):
                found.append(begin(partial(client.request, request)))
                await until(driver, lambda number=number: len(client._session.pending) == number)
            payload["a"] = object()
            go.set()
            await until(driver, lambda: all(found))
            over.set()
        assert [type(outcome) for (outcome,) in found] == [Pong, Ack, LocalProtocolError]

    with scripted(script) as sock:
        run(driver, partial(main, sock))
