"""What a failed dial is called, and whether another try may help."""

import errno
import os
import socket

import pytest

from stereos_proto import ConnectError, PreambleError, PreambleFailure
from stereos_proto_io import TCP, HybridVsock, UnixSocket, Vsock
from stereos_proto_io._errors import connect_error, no_vsock

ADDRESS = UnixSocket("/run/vm.sock")
#: What somebody has to change first. Everything else may pass by itself.
FINAL = {
    errno.EACCES: "permission denied; see the socket's owner and mode",
    errno.EPERM: "permission denied",
    errno.ENOTSOCK: "this is no socket",
    errno.ENOTDIR: "a part of the path is no folder",
    errno.ENAMETOOLONG: "the path is too long",
    errno.EAFNOSUPPORT: "this system does not know this kind of address",
    errno.EPROTOTYPE: "this is a socket of another kind",
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
    errno.EBUSY: "somebody else has it open",
}


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
    for cause in (OSError("odd"), ValueError("odd")):
        assert (
            str(connect_error(ADDRESS, cause)) == "cannot connect to unix:///run/vm.sock: the system refused it (odd)"
        )
        assert connect_error(ADDRESS, cause).retryable


def test_a_name_that_is_not_found():
    error = connect_error(TCP("nowhere"), socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert str(error).startswith("cannot connect to tcp://nowhere:1024: this name is not known")
    assert error.retryable


def test_numbers_of_name_lookups_are_no_errnos():
    # They are small numbers, negative on Linux and positive on macOS, where 2 is EAI_AGAIN and not ENOENT.
    for number in (2, 8, -2, -3):
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


def test_without_vsock():
    error = no_vsock(Vsock(7))
    assert str(error).startswith("cannot connect to vsock://7:1024: this Python has no AF_VSOCK")
    assert not error.retryable
