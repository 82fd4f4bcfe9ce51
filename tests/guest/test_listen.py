"""Where a guest listens, without a server: what is bound, how many may wait, and how a connection is reset."""

import inspect
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from guest_harness import descriptors, terminal
from stereos_proto_io import TCP, UnixSocket, VirtioSerial
from stereos_proto_io.guest._listen import Endpoint, bind_all, reset_on_close


def test_an_endpoint_is_made_of_its_address_alone():
    assert [*inspect.signature(Endpoint).parameters] == ["address"]


def test_an_endpoint_that_is_not_bound_has_nothing_to_serve():
    endpoint = Endpoint(TCP("127.0.0.1", 1024))
    assert not endpoint.is_bound
    assert not endpoint.missed
    with pytest.raises(RuntimeError, match=r"^tcp://127\.0\.0\.1:1024 has no socket$"):
        _ = endpoint.listener
    with pytest.raises(RuntimeError, match=r"^tcp://127\.0\.0\.1:1024 has no open device$"):
        endpoint.take_device()


def test_a_device_has_no_listener():
    with terminal() as (_host, path, _end), ExitStack() as stack:
        endpoint = Endpoint(VirtioSerial(path))
        endpoint.bind()
        stack.callback(endpoint.close)
        assert endpoint.is_bound
        with pytest.raises(RuntimeError, match=r"has no socket$"):
            _ = endpoint.listener
        device = endpoint.take_device()
        stack.callback(device.close)
        assert not endpoint.is_bound


def hosts_that_may_wait(path, stack):
    """How many hosts the system lets wait at a listener that accepts none."""
    waiting = 0
    while True:
        host = stack.enter_context(socket.socket(socket.AF_UNIX))
        host.setblocking(False)
        try:
            host.connect(path)
        except BlockingIOError:
            return waiting
        waiting += 1


def test_a_serial_socket_lets_few_hosts_wait(tmp_path, monkeypatch):
    """As a chardev of QEMU, which serves one host at a time. Linux lets one more wait than it is told."""
    monkeypatch.chdir(tmp_path)
    endpoint = Endpoint(VirtioSerial("port"))
    endpoint.bind()
    endpoint.listen()
    with ExitStack() as stack:
        stack.callback(endpoint.close)
        assert hosts_that_may_wait("port", stack) == 2


def test_many_hosts_may_wait_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    endpoint = Endpoint(UnixSocket("guest"))
    endpoint.bind()
    endpoint.listen()
    with ExitStack() as stack:
        stack.callback(endpoint.close)
        for _ in range(200):
            host = stack.enter_context(socket.socket(socket.AF_UNIX))
            host.setblocking(False)
            host.connect("guest")


def test_a_socket_file_is_removed_from_where_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    endpoint = Endpoint(UnixSocket("guest"))
    endpoint.bind()
    monkeypatch.chdir("/")
    endpoint.close()
    assert not (tmp_path / "guest").exists()


def test_a_socket_file_that_cannot_be_removed_is_logged(tmp_path, monkeypatch, caplog):
    """Its folder may be read-only by then. The guest does not listen any more all the same."""
    monkeypatch.chdir(tmp_path)
    endpoint = Endpoint(UnixSocket("guest"))
    endpoint.bind()

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    endpoint.close()
    assert not endpoint.is_bound
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the socket file {tmp_path}/guest cannot be removed: ")
    endpoint.close()


def test_closing_is_a_reset_for_the_host():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as host:
        accepted, _ = listener.accept()
        reset_on_close(accepted)
        accepted.close()
        with pytest.raises(ConnectionResetError):
            host.recv(1)


@pytest.mark.parametrize("error", [OSError(95, "Operation not supported"), TypeError("an integer is required")])
def test_a_socket_that_cannot_be_reset_is_closed_all_the_same(error):
    class Sock:
        def setsockopt(self, *_arguments):
            raise error

    reset_on_close(Sock())


@pytest.mark.parametrize("last", [0, 1])
def test_of_several_places_all_are_had_or_none(tmp_path, last):
    ours = [UnixSocket(tmp_path / str(number)) for number in range(2)]
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(ours[last].path)
        taken.listen()
        before = descriptors()
        with pytest.raises(OSError, match="in use"):
            bind_all(ours)
        assert descriptors() == before
        assert not Path(ours[1 - last].path).exists()


def test_a_place_without_a_file_removes_none(monkeypatch, caplog):
    endpoint = Endpoint(TCP("127.0.0.1", 0))
    endpoint.bind()
    monkeypatch.setattr(Path, "unlink", lambda *_path, **_options: pytest.fail("a file is removed"))
    endpoint.close()
    assert not caplog.records
