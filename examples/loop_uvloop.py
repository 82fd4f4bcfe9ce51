"""The asyncio client under uvloop, without changes: python loop_uvloop.py ADDRESS"""

import asyncio
import sys

import uvloop

from stereos_proto_io import parse_address
from stereos_proto_io.asyncio import connect_when_ready


async def main(address):
    async with connect_when_ready(parse_address(address), timeout=60) as guest:
        async with asyncio.timeout(5):
            print(await asyncio.gather(guest.ping(), guest.get_health()))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
