"""Bring up many guests under trio, live as well: python fleet_trio.py JCARD ADDRESS…"""

import os
import sys
import time
from pathlib import Path

import trio
from rich.progress import BarColumn, Progress, TextColumn

from stereos_proto import StereosError, load_jcard
from stereos_proto_io import parse_address
from stereos_proto_io.trio import connect_when_ready

#: Seconds that each guest has for all of it. Without a bound, a guest that falls silent
#: would hold the whole fleet.
SECONDS = float(os.environ.get("FLEET_SECONDS", "120"))

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    TextColumn("{task.fields[what]}"),
)


async def bring_up(address, plan, show):
    """Wait for the guest, provision it, wait for its agents. Raises StereosError."""
    done = 0
    deadline = time.monotonic() + SECONDS

    def left():
        return max(deadline - time.monotonic(), 0)

    def on_progress(progress):
        show(0, progress.state or str(progress.error))

    def on_step(step):
        nonlocal done
        done += 1
        show(done, f"{step.label}: {step.status.value}")

    show(0, "dialling")
    async with connect_when_ready(
        address, timeout=left(), on_progress=on_progress
    ) as guest:
        report = await guest.provision(plan, on_step=on_step, timeout=left())
        report.raise_for_failure()
        show(done, "waiting for its agents")
        await guest.wait_ready(agents=plan.agents, timeout=left())
        show(done, "up")


async def main(plan, *addresses):
    up = []

    async def try_one(name, progress, row):
        def show(done, what):
            progress.update(row, completed=done, what=what)

        try:
            await bring_up(parse_address(name), plan, show)
        except StereosError as exc:
            # Kept here: an exception in a nursery would cancel the other guests.
            show(None, "failed")
            # Printed above the table, whose cells would cut the sentence.
            print(f"{name}: {exc}")
        else:
            up.append(name)

    with Progress(*COLUMNS) as progress:
        async with trio.open_nursery() as nursery:
            for name in addresses:
                row = progress.add_task(name, total=len(plan.requests), what="")
                nursery.start_soon(try_one, name, progress, row)
    print(f"{len(up)} of {len(addresses)} guests are up")
    return 0 if len(up) == len(addresses) else 1


if __name__ == "__main__":
    plan = load_jcard(Path(sys.argv[1]).read_text(), env=os.environ)
    sys.exit(trio.run(main, plan, *sys.argv[2:]))
