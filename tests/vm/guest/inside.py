"""What tests have done inside a guest, by the keeper: there, AF_VSOCK may be dialled."""

from __future__ import annotations

import errno
import json
import time
import traceback
from pathlib import Path

import agent
from hosts import HOSTS

from stereos_proto_io.addresses import parse_address
from stereos_proto_io.testing import check_client, client_cases

PATIENCE = 60
PORT = "serial:///dev/virtio-ports/org.stereos.control"


def check(name, address):
    """Run the client suite with a guest in this process; return what failed by case, "" for what did not."""
    host = HOSTS[name]()
    results = {}
    for case in client_cases(without=["when_ready"]):
        try:
            check_client(host.connect, run=host.loop, within=host.ask, address=parse_address(address), cases=[case])
            results[case.name] = ""
        except AssertionError:
            results[case.name] = traceback.format_exc()
    return results


def serve_port_too(runtime):
    """Have another agent listen on the port that the first one has open; return the kind of error, and its number."""
    try:
        agent.main([json.dumps({"runtime": runtime, "faults": []}), PORT])
    except OSError as exc:
        return "OSError", errno.errorcode[exc.errno or 0]


def reads_of(process):
    """How often a process reads in about two seconds, and the seconds."""
    start, before = time.monotonic(), _reads(process)
    time.sleep(2)
    return _reads(process) - before, time.monotonic() - start


def _reads(process):
    counts = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(counts["syscr"])


def dial(name, address):
    """Dial an address of AF_VSOCK where nobody answers; return what the client said, and whether it may try again."""

    async def scenario(host):
        seen = await host.see(PATIENCE, host.dial, parse_address(address))
        return seen.kind, str(seen.error), getattr(seen.error, "retryable", None)

    return HOSTS[name]().run(scenario)
