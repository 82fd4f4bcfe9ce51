"""How soon a host sees that its guest is ready, beside the reference's policy (200 ms before every probe)."""

from __future__ import annotations

import random
import statistics
import time

from stereos_proto_io import blocking
from stereos_proto_io.testing import simulated_guest

from .harness import Report

REFERENCE_INTERVAL = 0.2


def _ours(address: object) -> None:
    blocking.connect_when_ready(address).close()  # type: ignore[arg-type]


def _reference(address: object) -> None:
    with blocking.connect(address) as client:  # type: ignore[arg-type]
        while True:
            time.sleep(REFERENCE_INTERVAL)
            if client.get_health().state in ("ready", "healthy"):
                return


def run(report: Report) -> None:
    """Measure the time from ready to seen, for guests that are ready at once and guests that take a while."""
    chance = random.Random(7)
    for title, delays in (
        ("ready already", [0.0] * 5),
        ("booting 0.1 to 1 s", [chance.uniform(0.1, 1) for _ in range(15)]),
    ):
        late: dict[str, list[float]] = {"ours": [], "reference": []}
        for delay in delays:
            for name, wait in (("ours", _ours), ("reference", _reference)):
                with simulated_guest(boot_time=delay) as guest:
                    ready_at = time.perf_counter() + delay
                    wait(guest.address)
                    late[name].append(time.perf_counter() - ready_at)
        medians = {name: statistics.median(values) * 1000 for name, values in late.items()}
        report.note(
            "time from ready to seen",
            f"{title:20} ours {medians['ours']:7.1f} ms | reference's policy {medians['reference']:7.1f} ms",
        )
        report.curves.setdefault("time from ready to seen, ms", {})[title] = medians
