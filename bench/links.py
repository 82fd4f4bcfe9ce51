"""Many requests: pipelining, and provisioning over links with a delay."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from stereos_proto import InjectSecret, Ping, ProvisionPlan
from stereos_proto_io import TCP, UnixSocket, blocking
from stereos_proto_io import asyncio as stereos_asyncio
from stereos_proto_io.testing import simulated_guest

from .delay import delaying_proxy
from .harness import Report, compare
from .peer import peer

DEPTHS = (1, 4, 16, 64, 128, 256)
STEPS = (1, 10, 100)
DELAYS_MS = (0, 1, 10, 50)


def run(report: Report) -> None:
    """Measure pipelining by depth, then provisioning by delay."""
    _pipelining(report)
    asyncio.run(_provisioning(report))


def _pipelining(report: Report) -> None:
    curve = {}
    with peer("stereos") as sock, blocking.Client.attach(sock.dup(), max_pending=max(DEPTHS)) as client:
        for depth in DEPTHS:
            batch = [Ping()] * depth

            def one_by_one(depth: int = depth) -> None:
                for _ in range(depth):
                    client.ping()

            result = compare(
                f"{depth} requests in flight",
                {"one by one": one_by_one, "request_many": lambda batch=batch: client.request_many(batch)},
            )
            report.add("pipelining (blocking client)", result)
            curve[depth] = {f.contender: f.micros / depth for f in result.figures}
    report.curves["pipelining: µs per request"] = curve


async def _provisioning(report: Report) -> None:
    section = "provisioning over a link with a delay"
    curve: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "guest")
        with simulated_guest(address=UnixSocket(path)):
            for delay in DELAYS_MS:
                async with delaying_proxy(path, delay / 1000) as (host, port):
                    for steps in STEPS:
                        plan = ProvisionPlan(secrets=[InjectSecret(f"S{n}", "v") for n in range(steps - 1)], config="x")
                        together, single = await _pair(TCP(host, port), plan, turns=3 if delay * steps > 500 else 7)
                        curve[f"{delay} ms, {steps} steps"] = {"provision": together, "one at a time": single}
                        trips = together / delay if delay else 0.0
                        verdict = "" if not delay else f" = {trips:.2f} D ≤ 2.5 D {'ok' if trips <= 2.5 else 'MISSED'}"
                        report.note(
                            section,
                            f"D = {delay:>2} ms, {steps:>3} steps: provision {together:8.2f} ms{verdict}; "
                            f"one at a time {single:8.2f} ms (×{single / together:.1f})",
                        )
    report.curves[section] = curve


async def _pair(address: TCP, plan: ProvisionPlan, *, turns: int) -> tuple[float, float]:
    together, single = [], []
    async with stereos_asyncio.connect(address) as client:
        for _ in range(turns):
            start = time.perf_counter()
            done = await client.provision(plan)
            together.append(time.perf_counter() - start)
            if not done.ok:
                raise RuntimeError("the simulator refused the plan")
            start = time.perf_counter()
            for request in plan.requests:
                await client.request(request)
            single.append(time.perf_counter() - start)
    return statistics.median(together) * 1000, statistics.median(single) * 1000
