"""Ctrl-C at every place where it can come."""

import itertools
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import trio
import trio.testing

from ctrl_c import Interrupt, Interrupting, bytecode_of_3_11, interrupted
from stereos_proto import ConnectionLost, CustomRequest, GetHealth, Health, StereosError, encode
from stereos_proto_io import blocking
from stereos_proto_io.driver import _sync_client

from .guests import MOUNT, Counting, Wrapped, small_buffers
from .harness import BLOCKING, PATIENCE, TRIO, attached, run, until


@contextmanager
def counted(*, wrap=lambda sock: sock):
    """A client of a guest that numbers its health reports, two requests in flight at most."""
    ours, theirs = socket.socketpair()
    guest = Counting()
    thread = threading.Thread(target=guest.serve, args=(theirs,))
    thread.start()
    with theirs, BLOCKING.Client.attach(wrap(ours), max_pending=2, timeout=PATIENCE) as client:
        yield client, guest
        client.close()
        thread.join(PATIENCE)
    assert not thread.is_alive()


@bytecode_of_3_11
def test_ctrl_c_everywhere_in_request_many():
    """Either the client goes on, and every request gets its own reply, or the connection has ended."""
    went_on = 0
    for number in itertools.count(1):
        with counted() as (client, guest):
            done = interrupted(number, lambda: client.request_many([GetHealth()] * 3))
            try:
                for _ in range(2):
                    assert client.get_health().uptime_seconds == guest.asked
                went_on += 1
            except ConnectionLost:
                assert not done
        if done:
            break
    assert number > went_on > 10


@bytecode_of_3_11
def test_ctrl_c_while_the_connection_is_closed_wakes_all_callers():
    """The one that closed it was interrupted in telling the others."""

    def ask():
        with pytest.raises(ConnectionLost):
            client.request(MOUNT)

    def hear():
        with suppress(ConnectionLost):
            assert list(client.notifications()) == []

    for number in itertools.count(1):
        ours, theirs = small_buffers()
        with theirs, BLOCKING.Client.attach(ours, timeout=600) as client:
            threads = [threading.Thread(target=work, daemon=True) for work in (ask, hear)]
            for thread in threads:
                thread.start()
            run(BLOCKING, lambda: until(BLOCKING, lambda: client._turns._leader and client._turns._followers))
            done = interrupted(number, client.close)
            if done or client._session.ended:
                for thread in threads:
                    thread.join(PATIENCE)
                assert not any(thread.is_alive() for thread in threads)
        for thread in threads:
            thread.join(PATIENCE)
        if done:
            break
    assert number > 10


@pytest.mark.parametrize(("name", "least"), [("monotonic", 2), ("recv", 2), ("send", 2)])
def test_request_many_that_is_interrupted(name, least, monkeypatch):
    """While it waits, it is given up. While it reads or writes, nobody knows what was, and the connection ends."""
    for number in itertools.count(1):
        interrupting = Interrupting(time, name, number)

        def wrap(sock):
            interrupting.inner = sock  # noqa: B023
            return interrupting  # noqa: B023

        with monkeypatch.context() as patch:
            if name == "monotonic":
                patch.setattr(_sync_client, "time", interrupting)
            with counted(wrap=(lambda sock: sock) if name == "monotonic" else wrap) as (client, guest):
                try:
                    client.request_many([GetHealth()] * 3)
                except KeyboardInterrupt:
                    if name == "monotonic":
                        for _ in range(2):
                            assert client.get_health().uptime_seconds == guest.asked
                        assert client.connection.pending == ()
                    else:
                        with pytest.raises(ConnectionLost, match=r"not sent.* was interrupted"):
                            client.get_health()
                else:
                    break
    assert number > least


@pytest.mark.parametrize("name", ["recv", "send"])
def test_a_task_that_is_interrupted_while_it_reads_or_writes(name):
    async def main():
        async with attached(TRIO, Interrupting(ours, name, 1)) as client:
            with pytest.raises(KeyboardInterrupt):
                await client.get_health()
            with pytest.raises(ConnectionLost, match=r"not sent.* was interrupted"):
                await client.get_health()

    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(encode(Health("ready")))
        run(TRIO, main)
        assert theirs.recv(1000) == encode(GetHealth()), "it left once"


@bytecode_of_3_11
def test_ctrl_c_everywhere():
    for number in itertools.count(1):
        ours, theirs = socket.socketpair()
        guest = Counting()
        thread = threading.Thread(target=guest.serve, args=(theirs,))
        thread.start()
        with theirs, blocking.Client.attach(ours) as client:
            done = interrupted(number, client.get_health)
            try:
                for _ in range(2):
                    assert client.get_health(timeout=PATIENCE).uptime_seconds == guest.asked
            except ConnectionLost:
                # It came where nobody can know what was read or written.
                assert not done
            client.close()
            thread.join(PATIENCE)
        if done:
            break
    assert number > 30


@bytecode_of_3_11
# It may come between making a coroutine and awaiting it, in anybody's code.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("stream", ["socket", "stream"])
@pytest.mark.parametrize("number", [1, 3])
def test_ctrl_c_everywhere_in_trio(number, stream):
    """The client goes on, and every request gets its own reply."""

    async def trial(count):
        ours, theirs = socket.socketpair()
        guest = Counting()
        thread = threading.Thread(target=guest.serve, args=(theirs,))
        thread.start()
        if stream == "stream":
            ours = Wrapped(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        async with attached(TRIO, ours, max_pending=2) as client:
            done = await interrupted_await(count, lambda: client.request_many([GetHealth()] * number))
            with trio.fail_after(PATIENCE):
                for _ in range(2):
                    assert (await client.get_health()).uptime_seconds == guest.asked
            assert client.connection.pending == ()
        thread.join(PATIENCE)
        theirs.close()
        return done

    for count in itertools.count(1):
        if trio.run(trial, count):
            break
    assert count > 5


async def interrupted_await(number, work):
    """Whether `work` was done before the interrupt came. Where it waits in a nursery, that comes out in a group."""
    done = False
    before = sys.gettrace()
    sys.settrace(Interrupt(number))
    try:
        await work()
        done = True
    except* KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return done


@bytecode_of_3_11
def test_ctrl_c_of_the_leader_lets_others_go_on():
    """Wherever it comes, the thread that follows gets its reply, or an error, long before its own deadline."""
    for number in itertools.count(1):
        ours, theirs = socket.socketpair()
        found = []
        with theirs, blocking.Client.attach(ours) as client:

            def follow():
                try:
                    found.append(client.request(CustomRequest("second"), timeout=600))  # noqa: B023
                except StereosError as exc:
                    found.append(exc)  # noqa: B023

            follower = threading.Thread(target=follow)
            answering = threading.Thread(target=_answer_two, args=(theirs, follower))
            answering.start()
            done = interrupted(number, lambda: client.request(CustomRequest("first"), timeout=PATIENCE))
            if not follower.ident:
                # It was interrupted before it asked.
                client.close()
                answering.join(PATIENCE)
                continue
            follower.join(PATIENCE)
            assert not follower.is_alive()
            client.close()
            answering.join(PATIENCE)
        assert isinstance(found[0], Exception) or found[0].reply_to == "second"
        if done:
            break


def _answer_two(sock, follower):
    # Closed here: a socket stays open while a file made from it does.
    with sock.makefile("rb") as reader:
        if not reader.readline():
            return
        follower.start()
        if not reader.readline():
            return
        for name in (b"first", b"second"):
            with suppress(OSError):
                sock.sendall(b'{"type":"ack","payload":{"reply_to":"%b","ok":true}}\n' % name)
