"""Eight threads that share what may be shared, for some seconds each: `python -m tests.next.stress`.

They read and write messages, ask over one client, and ask one threaded server over clients of their own. Each reply
has to be the one to its request.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from stereos_proto import Ack, CustomRequest, Health, InjectSecret, Mount, Ping, Pong, Role, decode, encode
from stereos_proto_io import UnixSocket, blocking
from stereos_proto_io.guest import blocking as guest

THREADS: Final = 8
SECONDS: Final = 8.0

#: One turn of a thread, given its own number and that of the turn; returns how much it has done.
Turn = Callable[[int, int], int]


def read_and_write(thread: int, turn: int) -> int:
    """Write each kind of message that has text in it, and read it again."""
    name = f"{thread}-{turn}"
    requests = (Mount(name, f"/mnt/{name}", "9p"), InjectSecret("NAME", name), CustomRequest(f"sync:{name}"), Ping())
    replies = (Ack(name, False, name), Health("ready", [], thread), Pong())
    for message, sender in (*((one, Role.HOST) for one in requests), *((one, Role.GUEST) for one in replies)):
        assert decode(encode(message), sender=sender) == message
    return len(requests) + len(replies)


def ask(client: blocking.Client, thread: int, turn: int) -> int:
    """Ask one by one, and for several at once."""
    names = [f"t{thread}-{turn}-{step}" for step in range(10)]
    replies = [client.request(CustomRequest(name)) for name in names[:5]]
    replies += client.request_many([CustomRequest(name) for name in names[5:]])
    assert [reply.reply_to for reply in replies] == names
    return len(names)


def together(what: str, work: Turn) -> None:
    """Run `work` in all threads at once until the time is over, and print how much was done."""
    done, errors = [0] * THREADS, []
    start, end = threading.Barrier(THREADS), time.monotonic() + SECONDS

    def run(thread: int) -> None:
        try:
            start.wait()
            turn = 0
            while time.monotonic() < end and not errors:
                done[thread] += work(thread, turn)
                turn += 1
        except BaseException as exc:
            errors.append(exc)
            raise

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    print(f"{what}: {sum(done):,} in {THREADS} threads, {SECONDS:g} s", flush=True)


def main() -> int:
    """Run everything."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'with' if has_lock else 'without'} the global lock", flush=True)
    together("messages written and read", read_and_write)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(
            guest.serve(UnixSocket(str(folder / "guest")), lambda request: Ack(request.type, True))
        )
        client = stack.enter_context(blocking.connect(server.address))
        together("requests over one client", lambda thread, turn: ask(client, thread, turn))
        clients = [stack.enter_context(blocking.connect(server.address)) for _ in range(THREADS)]
        together("requests over a client for each thread", lambda thread, turn: ask(clients[thread], thread, turn))
    return 0


if __name__ == "__main__":
    sys.exit(main())
