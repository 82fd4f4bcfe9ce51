"""A fleet over many hosts: python fleet_dask.py SCHEDULER JCARD HOST=ADDRESS…

It runs on dask.distributed. A guest's socket can be reached on its own host only, so
each task is bound to the worker of that name. Secrets are named in the jcard and looked
up in the environment of the worker: they never travel.

dask runs a task again when its worker dies, and provisioning twice is not the same as
provisioning once. So a task leaves a mark with the scheduler before it sends anything.
Where the mark is there already, an earlier try may have changed the guest: that is
said, and nothing is sent. With DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0 in its
environment the scheduler does not run the task again, and reports that its worker was
lost.
"""

import os
import sys
import time
import uuid
from pathlib import Path

from distributed import Client, Event, as_completed, get_worker

from stereos_proto import StereosError, load_jcard
from stereos_proto_io import parse_address
from stereos_proto_io.blocking import connect_when_ready

TOPIC = "fleet"
LOST = "unknown: its worker was lost after the guest may have been changed"


def bring_up(place, jcard, mark, seconds):
    """Run on the guest's host. Return text: a report's requests hold secrets."""

    def report(step):
        get_worker().log_event(TOPIC, (place, step))

    address = parse_address(place.partition("=")[2])
    plan = load_jcard(jcard, env=os.environ)
    deadline = time.monotonic() + seconds

    def left():
        return max(deadline - time.monotonic(), 1)

    def on_step(step):
        report(step.label)

    try:
        report("waiting for the guest")
        with connect_when_ready(address, timeout=seconds) as guest:
            begun = Event(mark)
            if begun.is_set():
                return LOST
            begun.set()
            report("provisioning")
            result = guest.provision(plan, on_step=on_step, timeout=left())
            if not result.ok:
                faults = (f"{step.label}: {step.error}" for step in result.failed)
                return f"failed: {'; '.join(faults)}"
            guest.wait_ready(agents=plan.agents, timeout=left())
    except StereosError as exc:
        return f"failed: {exc}"
    return "up"


class Fleet:
    """The tasks of all guests, and what is known of each."""

    def __init__(self, cluster, jcard, places, seconds):
        self.known = dict.fromkeys(places, "not begun")
        self._cluster = cluster
        run = uuid.uuid4().hex
        self._marks = {place: f"{run} {place}" for place in places}
        cluster.subscribe_topic(TOPIC, self._told)
        self._tasks = {}
        for place in places:
            # Bound to its host, not pure, and not retried where it raises.
            bound = {"workers": [place.partition("=")[0]], "pure": False, "retries": 0}
            work = (place, jcard, self._marks[place], seconds)
            self._tasks[cluster.submit(bring_up, *work, **bound)] = place

    def _told(self, event):
        place, step = event[1]
        if place in self._tasks.values():
            print(f"{place}: … {step}", flush=True)

    def wait(self, seconds):
        """Wait for all of them, also where a host is lost and does not come back."""
        left = dict(self._tasks)
        try:
            for task in as_completed(self._tasks, timeout=seconds):
                self._end(left.pop(task), task)
        except TimeoutError:
            for task, place in left.items():
                task.cancel()
                self._end(place, None)

    def _end(self, place, task):
        late = TimeoutError("its host did not come back")
        error = late if task is None else task.exception()
        if error is None:
            known = task.result()
        elif Event(self._marks[place], client=self._cluster).is_set():
            # The task has no result, but its mark shows whether it may have changed the
            # guest.
            known = LOST
        else:
            known = f"not begun: {error}"
        self.known[place] = known
        print(f"{place}: {known}", flush=True)


def main(scheduler, jcard, *places):
    seconds = float(os.environ.get("FLEET_SECONDS", "120"))
    with Client(scheduler) as cluster:
        fleet = Fleet(cluster, Path(jcard).read_text(), places, seconds)
        fleet.wait(seconds + 30)
    up = sum(known == "up" for known in fleet.known.values())
    print(f"{up} of {len(places)} guests are up")
    return 0 if up == len(places) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
