"""A guest under uvloop, with the asyncio client: python loop_uvloop.py tcp://HOST:PORT"""

import asyncio
import sys

import uvloop

from stereos_proto import ConnectionLost, GetHealth, Mount, Ping, Shutdown
from stereos_proto_io import parse_address
from stereos_proto_io.asyncio import connect


async def listen(client):
    async for message in client.notifications():
        print(message.type, message.state)


async def main(place):
    async with connect(place) as client, asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listen(client))

        batch = (Ping(), GetHealth(), Mount("share0", "/workspace", "virtiofs"))
        replies = await client.request_many(batch)
        for request, reply in zip(batch, replies, strict=True):
            print(request.type, "->", reply.type)

        asking = tasks.create_task(client.get_health())
        await asyncio.sleep(0)  # lets it send
        asking.cancel()
        print("get_health given up")
        print("ping ->", (await client.ping()).type)

        listening.cancel()
        down = asyncio.ensure_future(client.request(Shutdown("done")))
        health = asyncio.ensure_future(client.get_health())
        print("shutdown ->", (await down).type)
        try:
            await health
        except ConnectionLost:
            print("get_health: no reply: the guest has gone")


if __name__ == "__main__":
    uvloop.run(main(parse_address(sys.argv[1])))
