"""Many guests in one process: requests per second, latency, memory and CPU per connection.

The guests are connections to one responder in another process, so this measures the host's side only.
`python -m bench.fleet serve PATH` is that responder.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import trio

from stereos_proto_io import UnixSocket, blocking
from stereos_proto_io import asyncio as stereos_asyncio
from stereos_proto_io import trio as stereos_trio

from .harness import Report
from .peer import HEALTH

SECTION = "many guests in one process"
ROUNDS = 5


class _Responder(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(HEALTH * data.count(b"\n"))


async def _serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(_Responder, path, backlog=8192)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def responder() -> Any:
    """The address of a responder in another process."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "guests")
        process = subprocess.Popen([sys.executable, "-m", "bench.fleet", "serve", path], stdout=subprocess.PIPE)
        try:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise RuntimeError("the responder did not start")
            yield UnixSocket(path)
        finally:
            process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _raise_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


class _Memory:
    """Counts exactly what Python allocates, by `tracemalloc`. That slows the code down, so nothing is timed in it."""

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        return self

    def per(self, connections: int) -> float:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / connections

    def __exit__(self, *_exc: object) -> None:
        tracemalloc.stop()


class _Tally:
    """What a run of polls took."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.start, self.cpu = time.perf_counter(), time.process_time()

    async def poll(self, ask: Callable[[], Awaitable[Any]]) -> None:
        start = time.perf_counter()
        await ask()
        self.latencies.append(time.perf_counter() - start)

    def stop(self) -> None:
        self.wall, self.used = time.perf_counter() - self.start, time.process_time() - self.cpu

    def figures(self) -> dict[str, float]:
        ordered = sorted(self.latencies)
        return {
            "requests per second": len(ordered) / self.wall,
            "p50 ms": ordered[len(ordered) // 2] * 1000,
            "p99 ms": ordered[int(len(ordered) * 0.99)] * 1000,
            "CPU µs per poll": self.used / len(ordered) * 1e6,
        }


async def _bare_memory(address: UnixSocket, guests: int) -> float:
    loop = asyncio.get_running_loop()
    with _Memory() as memory:
        made = [await loop.create_unix_connection(asyncio.Protocol, address.path) for _ in range(guests)]
        size = memory.per(guests)
    for transport, _ in made:
        transport.abort()
    await asyncio.sleep(0)
    return size


async def _asyncio_memory(address: UnixSocket, guests: int) -> float:
    with _Memory() as memory:
        clients = [await stereos_asyncio.connect(address) for _ in range(guests)]
        for client in clients:
            await client.get_health()
        size = memory.per(guests)
    for client in clients:
        await client.aclose()
    return size


async def _asyncio(address: UnixSocket, guests: int) -> _Tally:
    clients = [await stereos_asyncio.connect(address) for _ in range(guests)]
    tally = _Tally()
    for _ in range(ROUNDS):
        await asyncio.gather(*(tally.poll(client.get_health) for client in clients))
    tally.stop()
    await asyncio.gather(*(client.aclose() for client in clients))
    return tally


async def _trio(address: UnixSocket, guests: int) -> _Tally:
    managers = [stereos_trio.connect(address) for _ in range(guests)]
    clients = [await manager.__aenter__() for manager in managers]
    tally = _Tally()
    for _ in range(ROUNDS):
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(tally.poll, client.get_health)
    tally.stop()
    for client in clients:
        await client.aclose()
    return tally


def _blocking(address: UnixSocket, guests: int) -> _Tally:
    """One thread a guest, as a program without an event loop would do it."""
    clients = [blocking.connect(address) for _ in range(guests)]

    def poll(client: blocking.Client) -> None:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            client.get_health()
            tally.latencies.append(time.perf_counter() - start)

    threads = [threading.Thread(target=poll, args=(client,)) for client in clients]
    tally = _Tally()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.stop()
    for client in clients:
        client.close()
    return tally


def run(report: Report, *, full: bool = False) -> None:
    """Poll fleets of several sizes with each driver."""
    most = _raise_limit() - 200
    sizes = [size for size in ((1, 10, 100, 1000, 5000) if full else (1, 100, 1000)) if size <= most]
    curve: dict[str, dict[int, dict[str, float]]] = {"asyncio": {}, "trio": {}, "blocking": {}}
    for size in sizes:
        with responder() as address:
            runs: dict[str, Callable[[], _Tally]] = {
                "asyncio": lambda a=address, s=size: asyncio.run(_asyncio(a, s)),
                "trio": lambda a=address, s=size: trio.run(_trio, a, s),
            }
            if size <= 1000:
                runs["blocking"] = lambda a=address, s=size: _blocking(a, s)
            for driver, function in runs.items():
                figures = function().figures()
                curve[driver][size] = figures
                cells = ", ".join(f"{value:,.1f} {name}" for name, value in figures.items())
                report.note(SECTION, f"{driver:>8}, {size:>5} guests: {cells}")
    with responder() as address:
        bare = asyncio.run(_bare_memory(address, 200)) / 1024
        ours = asyncio.run(_asyncio_memory(address, 200)) / 1024
    verdict = "ok" if ours - bare <= 10 else "MISSED"
    report.note(
        SECTION, f"memory per idle connection: {ours:.1f} KiB, {ours - bare:.1f} over a bare Protocol ≤ 10 {verdict}"
    )
    report.curves["memory per connection, KiB"] = {"asyncio client": ours, "bare asyncio.Protocol": bare}
    report.curves[SECTION] = curve


if __name__ == "__main__":
    _raise_limit()
    asyncio.run(_serve(sys.argv[2]))
