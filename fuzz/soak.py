"""Random conversations with random faults against the simulator: `python -m fuzz.soak --driver asyncio --minutes 60`.

Conversation number N of a seed is always the same one; `--start N` goes on where a run has ended (it says where).
What must hold: each request ends in its own reply or in a documented error, and nothing stays behind:
descriptors, threads, tasks, objects and memory are flat at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio
import trio.testing

import stereos_proto_io.asyncio
import stereos_proto_io.blocking
import stereos_proto_io.trio
from stereos_proto import (
    Ack,
    CustomRequest,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    LocalProtocolError,
    Mount,
    Ping,
    Pong,
    Reply,
    Request,
    RequestFailed,
    SetConfig,
    Shutdown,
    StereosError,
)
from stereos_proto_io.addresses import TCP, Address, HybridVsock, UnixSocket
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.blocking import serve

#: What goes wrong at a request, and what at a connection.
FAULTS: Final = (
    *("drop", "duplicate", "swap", "push:ready", "half", "garbage", "blank", "wrong-type", "fail", "close", "stall"),
    *("late:0.005s", "delay:0.005s", "omit:restarts", "omit:ok", "over-long", "power-off"),
)
CONNECTION_FAULTS: Final = ("reset", "hang-up", "cut:0", "cut:20", "cut:200")
#: Seconds that a caller waits: hardly, a while, or as long as it takes with a guest that stays silent.
PATIENCE: Final = (0.0, 0.002, 0.01, 0.25, 0.25, 0.25)
#: Conversations after which what is in use is counted.
ROUND: Final = 25


class Conversation(NamedTuple):
    """What happens in one conversation, all of it chosen beforehand."""

    number: int
    address: Callable[[Path], Address]
    faults: list[str]
    workers: list[list[tuple[Request, float]]]
    listens: bool


def conversation(seed: int, number: int) -> Conversation:
    """The conversation of that number."""
    rng = random.Random(f"{seed}:{number}")
    faults = [
        f"{rng.choice(FAULTS)}{rng.choice(('', '@mount', '@ping', '@inject_secret'))}#{rng.randint(1, 8)}"
        for _ in range(rng.choice((0, 0, 1, 1, 2, 4)))
    ]
    if rng.random() < 0.15:
        faults.append(f"{rng.choice(CONNECTION_FAULTS)}#1")
    workers = [
        [(request(rng), rng.choice(PATIENCE)) for _ in range(rng.randint(1, 8))]
        for _ in range(rng.choice((1, 1, 2, 5)))
    ]
    address = rng.choice(
        (
            lambda _folder: TCP("127.0.0.1", 0),
            lambda folder: UnixSocket(str(folder / "u")),
            lambda folder: HybridVsock(str(folder / "h")),
        )
    )
    return Conversation(number, address, faults, workers, rng.random() < 0.3)


def request(rng: random.Random) -> Request:
    """Any request; one in a while is large, or cannot be sent."""
    size = rng.choice((1, 1, 1, 1000, 200_000))
    return rng.choice(
        (
            Ping(),
            GetHealth(),
            Mount("share0", "/workspace", rng.choice(("9p", "virtiofs", "ext4"))),
            InjectSecret("TOKEN", "x" * size),
            SetConfig("#" * size),
            InjectSSHKey("admin", "ssh-ed25519 AAAA"),
            CustomRequest(f"sync:{rng.getrandbits(32)}"),
            CustomRequest(f"sync:{rng.getrandbits(32)}"),
            InjectSecret("BAD", "\udc80"),
            Shutdown() if rng.random() < 0.2 else Ping(),
        )
    )


def judge(asked: Request, outcome: Any, seen: Counter[str]) -> None:
    """A reply fits its request, and an error is a documented one."""
    seen[type(outcome).__name__] += 1
    if isinstance(outcome, RequestFailed):
        assert outcome.request is asked
        if isinstance(asked, CustomRequest) and outcome.error.startswith("unknown message type"):
            # The echo that every guest answers: a reply that went astray would name another.
            assert outcome.error == f"unknown message type: {asked.type}"
    elif isinstance(outcome, Reply):
        assert type(outcome) is {Ping: Pong, GetHealth: Health}.get(type(asked), Ack)
        assert not isinstance(outcome, Ack) or outcome.reply_to == asked.type
    elif isinstance(outcome, LocalProtocolError):
        assert asked == InjectSecret("BAD", "\udc80")
    else:
        assert isinstance(outcome, (StereosError, TimeoutError)), repr(outcome)


# ------------------------------------------------------------------------------------------------ drivers


def each(client: Any, jobs: list[tuple[Request, float]], seen: Counter[str]) -> None:
    """Ask one thing after the other."""
    for asked, patience in jobs:
        try:
            outcome: Any = client.request(asked, timeout=patience)
        except StereosError as exc:
            outcome = exc
        judge(asked, outcome, seen)


def listen(client: Any, seen: Counter[str]) -> None:
    """Take notifications until the end."""
    with suppress(StereosError):
        for _ in client.notifications():
            seen["notifications"] += 1


def blocking(talk: Conversation, address: Address, seen: Counter[str]) -> None:
    """One conversation through the blocking client, a thread for each worker."""
    try:
        client = stereos_proto_io.blocking.connect(address, timeout=0.5)
    except StereosError as exc:
        seen[type(exc).__name__] += 1
        return
    with ThreadPoolExecutor(len(talk.workers) + 1) as pool:
        working = [pool.submit(each, client, jobs, seen) for jobs in talk.workers]
        if talk.listens:
            pool.submit(listen, client, seen)
        wait(working)
        client.close()
    for work in working:
        work.result()


async def with_asyncio(talk: Conversation, address: Address, seen: Counter[str]) -> None:
    """One conversation through the asyncio client, a task for each worker."""

    async def work(client: Any, jobs: list[tuple[Request, float]]) -> None:
        for asked, patience in jobs:
            try:
                async with asyncio.timeout(patience):
                    outcome: Any = await client.request(asked)
            except (StereosError, TimeoutError) as exc:
                outcome = exc
            judge(asked, outcome, seen)

    async def listen(client: Any) -> None:
        with suppress(StereosError):
            async for _ in client.notifications():
                seen["notifications"] += 1

    try:
        async with asyncio.timeout(0.5):
            client = await stereos_proto_io.asyncio.connect(address)
    except (StereosError, TimeoutError) as exc:
        seen[type(exc).__name__] += 1
        return
    async with client:
        listener = asyncio.create_task(listen(client)) if talk.listens else None
        async with asyncio.TaskGroup() as group:
            for jobs in talk.workers:
                group.create_task(work(client, jobs))
    if listener:
        await listener


async def with_trio(talk: Conversation, address: Address, seen: Counter[str]) -> None:
    """One conversation through the trio client, a task for each worker."""

    async def work(client: Any, jobs: list[tuple[Request, float]]) -> None:
        for asked, patience in jobs:
            outcome: Any = TimeoutError()
            with trio.move_on_after(patience):
                try:
                    outcome = await client.request(asked)
                except StereosError as exc:
                    outcome = exc
            judge(asked, outcome, seen)

    async def listen(client: Any) -> None:
        with suppress(StereosError):
            async for _ in client.notifications():
                seen["notifications"] += 1

    async def converse() -> None:
        async with stereos_proto_io.trio.connect(address) as client:
            connecting.deadline = float("inf")
            async with trio.open_nursery() as outer:
                if talk.listens:
                    outer.start_soon(listen, client)
                async with trio.open_nursery() as nursery:
                    for jobs in talk.workers:
                        nursery.start_soon(work, client, jobs)
                await client.aclose()

    with trio.move_on_after(0.5) as connecting:
        try:
            await converse()
        except StereosError as exc:
            seen[type(exc).__name__] += 1


def a_round(driver: str, seed: int, numbers: range, folder: Path, seen: Counter[str]) -> None:
    """Hold some conversations, in one event loop where there is one, and see that it is empty afterwards."""

    def guest(talk: Conversation) -> Any:
        for path in folder.iterdir():
            path.unlink()
        return serve(talk.address(folder), GuestSimulator(faults=talk.faults))

    async def over_asyncio() -> None:
        for number in numbers:
            talk = conversation(seed, number)
            with guest(talk) as server:
                await with_asyncio(talk, server.address, seen)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    async def over_trio() -> None:
        for number in numbers:
            talk = conversation(seed, number)
            with guest(talk) as server:
                await with_trio(talk, server.address, seen)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living <= 3  # main, init and the system nursery's

    if driver == "asyncio":
        asyncio.run(over_asyncio())
    elif driver == "trio":
        trio.run(over_trio)
    else:
        for number in numbers:
            talk = conversation(seed, number)
            with guest(talk) as server:
                blocking(talk, server.address, seen)


# ----------------------------------------------------------------------------------------- what stays behind


class InUse(NamedTuple):
    """What the process holds. Memory is in KiB."""

    descriptors: int
    threads: int
    objects: int
    memory: int


def in_use() -> InUse:
    """What the process holds now."""
    for _ in range(3):
        gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
    return InUse(
        sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count(), len(gc.get_objects()), resident
    )


def check_flat(first: InUse, last: InUse, conversations: int) -> None:
    """Nothing grows with the number of conversations."""
    assert last.descriptors == first.descriptors, (first, last)
    assert last.threads == first.threads, (first, last)
    assert last.objects - first.objects < 500 + conversations // 10, (first, last)
    assert last.memory - first.memory < 16_384 + conversations // 5, (first, last)


def soak(driver: str, *, seed: int, start: int, until: Callable[[int], bool]) -> int:
    """Hold conversations until `until(number)`; return the number of the next one."""
    seen: Counter[str] = Counter()
    number = start
    first: InUse | None = None
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        while not until(number):
            try:
                a_round(driver, seed, range(number, number + ROUND), Path(folder), seen)
            except BaseException:
                print(f"{driver}: seed {seed}, one of the conversations {number} to {number + ROUND - 1}", flush=True)
                raise
            number += ROUND
            now = in_use()
            # Caches fill in the first rounds.
            first = first or (now if number - start >= 2 * ROUND else None)
            if first:
                check_flat(first, now, number - start)
    print(f"{driver}: seed {seed}, conversations {start} to {number - 1}")
    print(f"  first {first}\n  last  {in_use()}\n  {dict(seen.most_common())}", flush=True)
    return number


def main() -> None:
    """Soak for some minutes."""
    parser = argparse.ArgumentParser(prog="fuzz.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--driver", choices=("asyncio", "trio", "blocking"), default="asyncio")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, metavar="N", help="go on with this conversation")
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    number = soak(options.driver, seed=options.seed, start=options.start, until=lambda _number: time.monotonic() >= end)
    print(f"  go on with --seed {options.seed} --start {number}")


if __name__ == "__main__":
    sys.exit(main())
