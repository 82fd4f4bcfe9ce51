"""Random conversations with random faults against the simulator: `python -m fuzz.soak --driver asyncio --minutes 60`.

Conversation number N of a seed is always the same one; `--start N` goes on where a run has ended (it says where).
What must hold: whatever is asked ends in its own reply or in a documented error, and nothing stays behind:
descriptors, threads, tasks, objects and memory are flat at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import faulthandler
import gc
import logging
import os
import random
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio
import trio.testing

import stereos_proto_io.asyncio
import stereos_proto_io.blocking
import stereos_proto_io.guest.asyncio
import stereos_proto_io.guest.blocking
import stereos_proto_io.guest.trio
import stereos_proto_io.trio
from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    CustomRequest,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    Lifecycle,
    LocalProtocolError,
    Mount,
    Ping,
    Pong,
    ProvisionPlan,
    ProvisionReport,
    Redactor,
    Reply,
    Request,
    RequestFailed,
    Role,
    SetConfig,
    Shutdown,
    StereosError,
    decode,
    encode,
)
from stereos_proto._redact import MAX_SENTENCE
from stereos_proto._registry import REGISTRY
from stereos_proto.dialogues import READY_STATES
from stereos_proto_io.addresses import TCP, Address, HybridVsock, UnixSocket, VirtioSerial
from stereos_proto_io.guest import GuestSimulator

#: What goes wrong at a request, at a connection, and with the guest as a whole.
FAULTS: Final = (
    *("drop", "duplicate", "swap", "push:ready", "half", "garbage", "blank", "wrong-type", "fail", "deny"),
    *("close", "stall", "late:0.005s", "delay:0.005s", "omit:restarts", "omit:ok", "over-long"),
    *("power-off", "reboot:0.01s"),
)
CONNECTION_FAULTS: Final = ("reset", "hang-up", "cut:0", "cut:20", "cut:200")
GUEST_FAULTS: Final = ("refuse:0.01s", "slow-boot:0.01s", "never-ready")
#: Where the guest is reached, and the way there.
TRANSPORTS: Final[dict[str, Callable[[Path], Address]]] = {
    "tcp": lambda _folder: TCP("127.0.0.1", 0),
    "unix": lambda folder: UnixSocket(str(folder / "u")),
    "hvsock": lambda folder: HybridVsock(str(folder / "h")),
    "serial": lambda folder: VirtioSerial(str(folder / "s")),
}
#: Seconds that a caller waits: almost none, a short time, or about as long as a reply takes.
PATIENCE: Final = (0.0, 0.002, 0.01, 0.2, 0.2, 0.2)
#: Seconds that a connection is waited for, and those after which everybody on one is told to go.
CONNECT_PATIENCE: Final = 0.3
SITTING_PATIENCE: Final = (0.01, 0.05, 1.0, 1.0, 1.0, 1.0)
#: Bytes of what is sent: mostly few, and as many as one line holds.
SIZES: Final = (1, 1, 1, 1000, 200_000, MAX_LINE_SIZE - len(encode(InjectSecret("TOKEN", ""))))
#: What secrets consist of. It stands in no type, or else the echo of that type would be redacted.
SECRET: Final = "q"
UNSENDABLE: Final = (InjectSecret("BAD", "\udc80"), SetConfig("#" * MAX_LINE_SIZE))
#: Conversations after which what is in use is counted, and rounds in which caches fill.
ROUND: Final = 25
WARM_UP: Final = 2
#: Seconds after which a round counts as hanging: it takes some ten on a busy machine.
HANG: Final = 300.0


class Job(NamedTuple):
    """One thing to do with a client, and the seconds after which its caller gives up.

    `verb` is a method of the client; or "hang up", which leaves everybody else without a connection; or "push",
    which has the guest tell something, `what` times.
    """

    verb: str
    what: Any
    patience: float

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What its verb is called with."""
        return () if self.what is None else (self.what,)

    @property
    def requests(self) -> tuple[Request, ...]:
        """What it sends."""
        if isinstance(self.what, ProvisionPlan):
            return self.what.requests
        return self.what if isinstance(self.what, tuple) else (self.what,)


class Sitting(NamedTuple):
    """One connection: who works on it at the same time, and the seconds after which it is cut short."""

    when_ready: bool
    listens: bool
    workers: list[list[Job]]
    patience: float


class Conversation(NamedTuple):
    """A guest, and one connection to it after the other; all of it chosen beforehand.

    `at_home`: the guest lives in the event loop of its host, and not in threads.
    """

    number: int
    transport: str
    faults: list[str]
    at_home: bool
    sittings: list[Sitting]


def conversation(seed: int, number: int) -> Conversation:
    """The conversation of that number."""
    rng = random.Random(f"{seed}:{number}")
    faults = [
        f"{rng.choice(FAULTS)}{rng.choice(('', '@mount', '@ping', '@inject_secret'))}#{rng.randint(1, 8)}"
        for _ in range(rng.choice((0, 0, 1, 1, 2, 4)))
    ]
    if rng.random() < 0.15:
        faults.append(f"{rng.choice(CONNECTION_FAULTS)}#{rng.randint(1, 2)}")
    if rng.random() < 0.1:
        faults.append(rng.choice(GUEST_FAULTS))
    sittings = [sitting(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    return Conversation(number, rng.choice([*TRANSPORTS]), faults, rng.random() < 0.5, sittings)


def sitting(rng: random.Random) -> Sitting:
    """Any connection."""
    workers = [[job(rng) for _ in range(rng.randint(1, 5))] for _ in range(rng.choice((1, 1, 2, 5)))]
    return Sitting(rng.random() < 0.3, rng.random() < 0.3, workers, rng.choice(SITTING_PATIENCE))


def job(rng: random.Random) -> Job:
    """Anything that a caller may do."""
    verb = rng.choices(
        ("request", "request_many", "provision", "wait_ready", "push", "hang up"), (12, 3, 2, 2, 2, 0.5)
    )[0]
    what: Any = None
    if verb == "request":
        what = request(rng)
    elif verb == "request_many":
        what = tuple(request(rng) for _ in range(rng.choice((0, 1, 5, 40))))
    elif verb == "provision":
        what = ProvisionPlan(
            mounts=[Mount(f"share{index}", f"/mnt/{index}", "9p") for index in range(rng.randint(0, 2))],
            secrets=[InjectSecret(f"S{index}", SECRET * rng.choice(SIZES[:4])) for index in range(rng.randint(0, 9))],
            ssh_keys=[InjectSSHKey("admin", "ssh-ed25519 AAAA")],
            config="[[agents]]\nname = 'a'\n",
        )
    elif verb == "push":
        what = rng.choice((1, 10, 2000))
    return Job(verb, what, rng.choice(PATIENCE))


def request(rng: random.Random) -> Request:
    """Any request; one in a while is large, or has a large reply, or cannot be sent."""
    size = rng.choice(SIZES)
    return rng.choice(
        (
            Ping(),
            GetHealth(),
            Mount("share0", "/workspace", rng.choice(("9p", "virtiofs", "ext4"))),
            InjectSecret("TOKEN", SECRET * size),
            SetConfig("#" * min(size, 200_000)),
            InjectSSHKey("admin", "ssh-ed25519 AAAA"),
            CustomRequest(f"sync:{rng.getrandbits(32)}"),
            CustomRequest(f"sync:{rng.getrandbits(32)}:{'x' * min(size, 500_000)}"),
            rng.choice(UNSENDABLE) if rng.random() < 0.5 else Ping(),
            Shutdown() if rng.random() < 0.2 else Ping(),
        )
    )


# ------------------------------------------------------------------------------------------------ judgement


def judge(job: Job, outcome: Any, seen: Counter[str]) -> None:
    """What came back fits what was asked, and an error is a documented one."""
    seen[f"{job.verb}: {type(outcome).__name__}"] += 1
    if isinstance(outcome, LocalProtocolError):
        assert set(job.requests) & set(UNSENDABLE)
    elif isinstance(outcome, RequestFailed):
        assert outcome.request is job.what
        judge_reply(job.what, Ack(job.what.type, False, outcome.error))
    elif isinstance(outcome, Exception):
        assert isinstance(outcome, StereosError), repr(outcome)
    elif isinstance(outcome, ProvisionReport):
        assert tuple(step.request for step in outcome.steps) == job.requests
    elif job.verb == "wait_ready":
        assert outcome.state in READY_STATES
    elif job.verb == "request_many":
        assert len(outcome) == len(job.what)
        for asked, reply in zip(job.what, outcome, strict=True):
            judge_reply(asked, reply)
    elif job.verb == "request":
        judge_reply(job.what, outcome)
    else:
        assert outcome is None


def judge_reply(asked: Request, reply: Reply) -> None:
    """A reply fits its request."""
    if isinstance(reply, Ack) and not reply.ok:
        assert reply.reply_to in (asked.type, "")
        if isinstance(asked, CustomRequest) and reply.error.startswith("unknown message type"):
            # The echo that every guest answers: a reply that went astray would name another. A long one is cut.
            echo = f"unknown message type: {asked.type}"
            cut = f"{echo[:MAX_SENTENCE]}… ({len(echo)} characters)"
            assert reply.error in ((echo, cut) if len(echo) > MAX_SENTENCE else (echo,))
    else:
        assert type(reply) is {Ping: Pong, GetHealth: Health}.get(type(asked), Ack)
        assert not isinstance(reply, Ack) or reply.reply_to == asked.type


# -------------------------------------------------------------------------------------------------- drivers


def push(server: Any, times: int) -> None:
    """Have the guest tell something to whoever is connected."""
    for number in range(times):
        server.push(Lifecycle("ready", f"{number}"))


class Group(asyncio.TaskGroup):
    """asyncio's, as trio's nursery is used."""

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run `function(*args)` in a task."""
        self.create_task(function(*args))


class Runtime(NamedTuple):
    """What an asynchronous driver lives in."""

    driver: Any
    serve: Callable[..., Any]
    group: Callable[[], Any]


RUNTIMES: Final = {
    "asyncio": Runtime(stereos_proto_io.asyncio, stereos_proto_io.guest.asyncio.serve, Group),
    "trio": Runtime(stereos_proto_io.trio, stereos_proto_io.guest.trio.serve, trio.open_nursery),
}


async def work(client: Any, jobs: list[Job], server: Any, seen: Counter[str]) -> None:
    """Do one job after the other."""
    for job in jobs:
        outcome: Any = None
        try:
            if job.verb == "push":
                push(server, job.what)
            elif job.verb == "hang up":
                await client.aclose()
            else:
                outcome = await client._bounded(job.patience, getattr(client, job.verb), *job.arguments)
        except StereosError as exc:
            outcome = exc
        judge(job, outcome, seen)


async def listen(client: Any, seen: Counter[str]) -> None:
    """Take notifications until the end."""
    with suppress(StereosError):
        async for _ in client.notifications():
            seen["notifications"] += 1


async def sit(runtime: Runtime, sitting: Sitting, server: Any, seen: Counter[str]) -> None:
    """Be connected once, a task for each worker; all of them are cancelled when its time is over."""
    driver = runtime.driver
    connect = driver.connect_when_ready if sitting.when_ready else driver.connect

    async def together() -> None:
        async with AsyncExitStack() as stack:
            entering = stack.enter_async_context
            client = await driver.Client._bounded(CONNECT_PATIENCE, entering, connect(server.address))
            async with runtime.group() as listeners:
                if sitting.listens:
                    listeners.start_soon(listen, client, seen)
                async with runtime.group() as workers:
                    for jobs in sitting.workers:
                        workers.start_soon(work, client, jobs, server, seen)
                await client.aclose()

    try:
        await driver.Client._bounded(sitting.patience, together)
    except StereosError as exc:
        seen[type(exc).__name__] += 1


@asynccontextmanager
async def guest(runtime: Runtime, talk: Conversation, folder: Path) -> AsyncIterator[Any]:
    """The guest of a conversation."""
    address, simulator = TRANSPORTS[talk.transport](folder), GuestSimulator(faults=talk.faults)
    if talk.at_home:
        async with runtime.serve(address, simulator) as server:
            yield server
    else:
        with stereos_proto_io.guest.blocking.serve(address, simulator) as server:
            yield server


def work_blocking(client: Any, jobs: list[Job], server: Any, seen: Counter[str]) -> None:
    """Do one job after the other."""
    for job in jobs:
        outcome: Any = None
        try:
            if job.verb == "push":
                push(server, job.what)
            elif job.verb == "hang up":
                client.close()
            else:
                outcome = getattr(client, job.verb)(*job.arguments, timeout=job.patience)
        except StereosError as exc:
            outcome = exc
        judge(job, outcome, seen)


def listen_blocking(client: Any, seen: Counter[str]) -> None:
    """Take notifications until the end."""
    with suppress(StereosError):
        for _ in client.notifications():
            seen["notifications"] += 1


def sit_blocking(sitting: Sitting, server: Any, seen: Counter[str]) -> None:
    """Be connected once, a thread for each worker; the connection is closed when its time is over."""
    driver = stereos_proto_io.blocking
    connect: Any = driver.connect_when_ready if sitting.when_ready else driver.connect
    try:
        client = connect(server.address, timeout=CONNECT_PATIENCE)
    except StereosError as exc:
        seen[type(exc).__name__] += 1
        return
    with ThreadPoolExecutor(len(sitting.workers) + 1) as pool:
        working = [pool.submit(work_blocking, client, jobs, server, seen) for jobs in sitting.workers]
        listening = [pool.submit(listen_blocking, client, seen)] if sitting.listens else []
        wait(working, sitting.patience)
        client.close()
    for work in (*working, *listening):
        work.result()


async def talk_async(runtime: Runtime, talks: Iterator[Conversation], folder: Path, seen: Counter[str]) -> None:
    """Hold some conversations."""
    for talk in talks:
        async with guest(runtime, talk, folder) as server:
            for sitting in talk.sittings:
                await sit(runtime, sitting, server, seen)


def talk_blocking(talks: Iterator[Conversation], folder: Path, seen: Counter[str]) -> None:
    """Hold some conversations."""
    for talk in talks:
        address, simulator = TRANSPORTS[talk.transport](folder), GuestSimulator(faults=talk.faults)
        with stereos_proto_io.guest.blocking.serve(address, simulator) as server:
            for sitting in talk.sittings:
                sit_blocking(sitting, server, seen)


def conversations(seed: int, numbers: range, folder: Path) -> Iterator[Conversation]:
    """The conversations of these numbers, each with an empty folder."""
    for number in numbers:
        for path in folder.iterdir():
            path.unlink()
        yield conversation(seed, number)


def a_round(driver: str, seed: int, numbers: range, folder: Path, seen: Counter[str]) -> None:
    """Hold some conversations, in one event loop where there is one, and see that it is empty afterwards."""
    talks = conversations(seed, numbers, folder)

    async def over_asyncio() -> None:
        await talk_async(RUNTIMES["asyncio"], talks, folder, seen)
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"

    async def over_trio() -> None:
        before = trio.lowlevel.current_statistics().tasks_living
        await talk_async(RUNTIMES["trio"], talks, folder, seen)
        await trio.testing.wait_all_tasks_blocked()
        left = trio.lowlevel.current_statistics().tasks_living - before
        assert not left, f"tasks are left: {left}"

    if driver == "asyncio":
        asyncio.run(over_asyncio())
    elif driver == "trio":
        trio.run(over_trio)
    else:
        talk_blocking(talks, folder, seen)


# ----------------------------------------------------------------------------------------- what stays behind


class InUse(NamedTuple):
    """What the process holds.

    `objects` are those that the garbage collector knows, `traced` the bytes that Python has allocated, and
    `resident` the KiB that the process has of the system.
    """

    descriptors: int
    threads: int
    objects: int
    traced: int
    resident: int


#: What each of these may grow by, however many conversations there are: Python's and trio's free lists fill, and
#: the system's allocator keeps some of what was freed.
ALLOWED: Final = {"descriptors": 0, "threads": 0, "objects": 20, "traced": 65_536, "resident": 16_384}

#: An option of glibc's allocator: from how many areas threads get memory. By default up to eight for each CPU, and each
#: area keeps tens of MiB after some lines of 1 MiB, which would hide what this library holds.
M_ARENA_MAX: Final = -8


def allocator(function: str, *arguments: int) -> None:
    """Call a function of glibc's allocator, where there is one."""
    with suppress(OSError, AttributeError):
        getattr(ctypes.CDLL(None), function)(*arguments)


def in_use() -> InUse:
    """What the process holds now."""
    for _ in range(3):
        gc.collect()
    allocator("malloc_trim", 0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return InUse(
        descriptors, threading.active_count(), len(gc.get_objects()), tracemalloc.get_traced_memory()[0], resident
    )


def check_flat(first: InUse, last: InUse) -> None:
    """Nothing grows with the number of conversations."""
    for name, allowed in ALLOWED.items():
        grown = getattr(last, name) - getattr(first, name)
        assert grown <= allowed, f"{name} grew by {grown}: {first}, then {last}"


class Soaked(NamedTuple):
    """What a run has come to: the number of the conversation to go on with, what was seen, and what is in use."""

    following: int
    seen: Counter[str]
    first: InUse | None
    last: InUse


class Complaints(logging.Handler):
    """Collects errors that were only logged, and not raised to a caller."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.texts.append(self.format(record))


@contextmanager
def no_complaints() -> Iterator[None]:
    """Nothing is logged as an error."""
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    try:
        yield
        assert not complaints.texts, complaints.texts[0]
    finally:
        logging.getLogger().removeHandler(complaints)


@contextmanager
def no_hang(driver: str, seed: int, numbers: range) -> Iterator[None]:
    """End the process when these conversations take far longer than they may, and show where they stand.

    A thread that waits for ever cannot be ended, and an orderly exit would wait for it.
    """

    def give_up() -> None:
        print(f"{driver}: seed {seed}, conversations {numbers.start} to {numbers.stop - 1} hang", file=sys.stderr)
        faulthandler.dump_traceback()
        os._exit(1)

    timer = threading.Timer(HANG, give_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def fill_caches() -> None:
    """Have everything made that is made once, and only when it is needed."""
    for row in REGISTRY:
        with suppress(StereosError):
            # What is missing is for the slower way of reading.
            decode(b'{"type":"%b","payload":{"agents":[{}]}}' % row.type.encode(), sender=row.sender)
    for malformed in (b'"\n"', b"[1.]", b"[tru]", b'["a" {}]', b'{"a":[1,"b"]'):
        with suppress(StereosError):
            decode(malformed, sender=Role.GUEST)
    # A text with each kind of escape.
    Redactor([InjectSecret("A", "a secret")]).redact(r"\x41 %41 + &amp; '\''")


def soak(driver: str, *, seed: int, start: int, until: Callable[[int], bool]) -> Soaked:
    """Hold conversations until `until(number)`."""
    seen: Counter[str] = Counter()
    number = start
    first: InUse | None = None
    # Before the first thread: areas that exist stay.
    allocator("mallopt", M_ARENA_MAX, 1)
    fill_caches()
    tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory(prefix="soak") as folder, no_complaints():
            while not until(number):
                numbers = range(number, number + ROUND)
                with no_hang(driver, seed, numbers):
                    a_round(driver, seed, numbers, Path(folder), seen)
                number = numbers.stop
                now = in_use()
                first = first or (now if number - start >= WARM_UP * ROUND else None)
                if first:
                    check_flat(first, now)
        return Soaked(number, seen, first, in_use())
    except BaseException:
        print(f"{driver}: seed {seed}, one of the conversations {number} to {number + ROUND - 1}", flush=True)
        raise
    finally:
        tracemalloc.stop()


def main() -> int:
    """Soak for some minutes; return 1 when that was too short to compare anything."""
    parser = argparse.ArgumentParser(prog="fuzz.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--driver", choices=("asyncio", "trio", "blocking"), default="asyncio")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, metavar="N", help="go on with this conversation")
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    until = lambda _number: time.monotonic() >= end  # noqa: E731
    done = soak(options.driver, seed=options.seed, start=options.start, until=until)
    print(f"{options.driver}: seed {options.seed}, conversations {options.start} to {done.following - 1}")
    print(f"  first {done.first}\n  last  {done.last}\n  {dict(done.seen.most_common())}")
    print(f"  go on with --seed {options.seed} --start {done.following}", flush=True)
    compared = done.following - options.start > WARM_UP * ROUND
    if not compared:
        print("  too short: caches were still filling, and nothing was compared", flush=True)
    return not compared


if __name__ == "__main__":
    sys.exit(main())
