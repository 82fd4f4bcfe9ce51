"""A guest agent on a runtime of choice: `main([runtime, address, ...])`, and what faults it shall have."""

from __future__ import annotations

import asyncio
import importlib

from stereos_proto_io.addresses import parse_address
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.effects import FolderEffects


def main(arguments):
    """Serve until a host shuts the guest down; return the status."""
    runtime, *rest = arguments
    faults = [word for word in rest if "://" not in word]
    addresses = [parse_address(word) for word in rest if "://" in word]
    guest = GuestSimulator(effects=FolderEffects("/"), faults=faults)
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
