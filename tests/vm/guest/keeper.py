"""Keeps the guest agent of a machine, and does in the guest what a test asks for.

It has a virtio-serial port to itself. A line there is a JSON object `{"id": ..., "do": ..., ...}`, and gets one
with the same id. When the agent ends by itself, the machine is turned off, as a StereOS guest is.

Python takes seconds to start on an emulated processor. So agents and calls are forks of the keeper, which has
imported what they need.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import time
import traceback
from pathlib import Path

import stereos_proto_io.guest.__main__  # noqa: F401  (for those that are forked)

PORT = Path("/dev/virtio-ports/org.stereos.test")
AGENT = (
    *("--root", "/", "--mount"),
    *("tcp://0.0.0.0:1024", "vsock://3:1024", "serial:///dev/virtio-ports/org.stereos.control"),
)


def fork(work):
    """Do `work` in a process of its own, whose standard output is a pipe; return its id and the pipe's end."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    status = 70
    try:
        os.close(reader)
        os.dup2(writer, 1)
        status = work()
    except BaseException:  # noqa: BLE001  (no code of the keeper may continue in this process)
        traceback.print_exc()
    finally:
        os._exit(status)


class Keeper:
    """Holds the agent, if one runs."""

    def __init__(self):
        self.process = 0
        self.ended = -1
        self.output = -1
        self.stays = False

    def start(self, module="stereos_proto_io.guest.__main__", arguments=AGENT, stays=False):
        """Start the agent, instead of the one that runs, and return what it says once it listens.

        When it ends, the machine `stays`, or is turned off.
        """
        self.stop()
        self.stays = stays
        # Imported here, and so once for all that are forked.
        agent = importlib.import_module(module)
        self.process, self.output = fork(lambda: agent.main(list(arguments)))
        self.ended = os.pidfd_open(self.process)
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self.output, 1)):
            line += byte
        print(f"keeper: {line.decode().strip() or 'the agent has ended'}", flush=True)
        return line.decode().strip()

    def agent(self):
        """Return the process id of the agent."""
        return self.process

    def stop(self):
        """Kill the agent, without a word to any host."""
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            self.reap()

    def signal(self, name):
        """Send the agent a signal by its name: SIGSTOP, and nobody accepts any more."""
        os.kill(self.process, signal.Signals[name])

    def reap(self):
        """Record that the agent has ended, and return its status."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        os.close(self.ended)
        os.close(self.output)
        self.process, self.ended = 0, -1
        return status

    def call(self, module, function, arguments):
        """Call a function in a process of its own, and return its result, or the text of what it raised."""
        chosen = getattr(importlib.import_module(module), function)

        def work():
            try:
                answer = {"result": chosen(*arguments)}
            except BaseException:  # noqa: BLE001  (the test reads it)
                answer = {"error": traceback.format_exc()}
            with os.fdopen(1, "w") as pipe:
                json.dump(answer, pipe)
            return 0

        process, reader = fork(work)
        with os.fdopen(reader) as pipe:
            answer = pipe.read()
        os.waitpid(process, 0)
        return json.loads(answer or '{"error": "it died"}')

    def run(self, argv, stdin=""):
        """Run a command to its end."""
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
        return {"status": done.returncode, "output": done.stdout, "errors": done.stderr}


ORDERS = {name: getattr(Keeper, name) for name in ("start", "agent", "stop", "signal", "call", "run")}


def obey(keeper, line):
    """Do what a line says, and return the line to answer with."""
    order = json.loads(line)
    number, what = order.pop("id"), order.pop("do")
    return json.dumps({"id": number, "result": ORDERS[what](keeper, **order)}).encode() + b"\n"


def serve(keeper, port):
    """Obey what comes through `port` until the agent ends by itself; return its status."""
    rest = b""
    while True:
        ready, _, _ = select.select([port, *([keeper.ended] if keeper.process else [])], [], [])
        if keeper.ended in ready:
            status = keeper.reap()
            if not keeper.stays:
                return status
            continue
        data = os.read(port, 65536)
        if not data:
            # The host is away, and the port says "readable" all that time.
            time.sleep(0.05)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            answer = obey(keeper, line)
            while answer:
                answer = answer[os.write(port, answer) :]


def main():
    """Serve the port."""
    keeper = Keeper()
    keeper.start()
    status = serve(keeper, os.open(PORT, os.O_RDWR))
    print(f"keeper: the agent has ended with status {status}", flush=True)


if __name__ == "__main__":
    main()
