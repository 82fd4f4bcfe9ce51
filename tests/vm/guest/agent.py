"""A guest agent on a runtime of choice, with the faults and the agents of choice: `main([OPTIONS, ADDRESS, ...])`."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from pathlib import Path

from stereos_proto import CustomRequest, Role, decode, encode
from stereos_proto_io.addresses import parse_address
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.effects import FolderEffects

#: What a watched guest has got so far, as JSON.
STATE = Path("/run/agent.json")
#: Characters of what is shown there; longer requests are sent for their length alone.
_SHOWN = 2000
_SHOWING = threading.Lock()


class Watched(GuestSimulator):
    """A guest that shows what it has got, before it answers."""

    def handle(self, request):
        reply = super().handle(request)
        # A resynchronisation is one, too, and a long pipeline is many.
        if not isinstance(request, CustomRequest) and len(self.config or "") < _SHOWN:
            # Connections have threads of their own; the last one to show must not show less than another.
            with _SHOWING:
                self.show()
        return reply

    def show(self):
        lines = [encode(request).decode() for request in self.requests]
        state = {
            "config": self.config,
            "secrets": {name: secret.value for name, secret in self.secrets.items()},
            "mounts": [encode(mount).decode() for mount in self.mounts],
            "requests": [line for line in lines if len(line) < _SHOWN],
            "shutdown_reason": self.shutdown_reason,
        }
        draft = STATE.with_suffix(".tmp")
        draft.write_text(json.dumps(state))
        draft.replace(STATE)


def main(arguments):
    """Serve until a host shuts the guest down; return the status.

    The options are a JSON object: `runtime`, `faults`, and for a watched guest `health`, the line with the agents
    that it reports, "" for one without.
    """
    options = json.loads(arguments[0])
    addresses = [parse_address(text) for text in arguments[1:]]
    if "health" in options:
        agents = decode(options["health"].encode(), sender=Role.GUEST).agents if options["health"] else None
        guest = Watched(faults=options["faults"], agents=agents)
        guest.show()
    else:
        guest = GuestSimulator(faults=options["faults"], effects=FolderEffects("/"))
    runtime = options["runtime"]
    RUNTIMES[runtime](importlib.import_module(f"stereos_proto_io.guest.{runtime}").serve(addresses, guest))
    return 0


def say(server):
    print("listening on", *server.addresses, flush=True)


def run_blocking(serving):
    with serving as server:
        say(server)
        server.join()


async def _run(serving):
    async with serving as server:
        say(server)
        await server.wait_off()


def run_asyncio(serving):
    asyncio.run(_run(serving))


def run_trio(serving):
    import trio

    trio.run(_run, serving)


RUNTIMES = {"blocking": run_blocking, "asyncio": run_asyncio, "trio": run_trio}
