"""A fleet over many hosts: python fleet_dask.py SCHEDULER JCARD HOST=ADDRESS…

It runs on dask.distributed. A guest's socket can be reached on its own host only, so
each task is bound to the worker of that name. Secrets are named in the jcard and looked
up in the environment of the worker: they never travel.
"""

import os
import sys
from pathlib import Path

from distributed import Client, as_completed

from stereos_proto import StereosError, load_jcard
from stereos_proto_io import parse_address
from stereos_proto_io.blocking import connect_when_ready


def bring_up(address, jcard):
    """Run on the guest's host. Return text: reports hold requests, and secrets."""
    try:
        plan = load_jcard(jcard, env=os.environ)
        with connect_when_ready(parse_address(address), timeout=120) as guest:
            report = guest.provision(plan)
            if report.ok:
                guest.wait_ready(agents=plan.agents, timeout=60)
    except StereosError as exc:
        return [str(exc)]
    return [f"{step.label}: {step.error}" for step in report.failed]


def main(scheduler, jcard, *places):
    text = Path(jcard).read_text()
    with Client(scheduler) as cluster:
        tasks = {}
        for place in places:
            host, _, address = place.partition("=")
            # Not pure and not retried: doing it again is not the same as doing it once.
            bound = {"workers": [host], "pure": False, "retries": 0}
            tasks[cluster.submit(bring_up, address, text, **bound)] = place
        failed = 0
        for task in as_completed(tasks):
            lost = task.exception()  # the worker was, and the task with it
            faults = [repr(lost)] if lost else task.result()
            failed += bool(faults)
            print(f"{tasks[task]}: {'; '.join(faults) or 'up'}", flush=True)
    print(f"{len(places) - failed} of {len(places)} guests are up")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
