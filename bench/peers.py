"""A request and its reply with the whole client, beside other clients that do the same kind of work.

Every peer process answers as cheaply as it can, so that what is measured is the client.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import ExitStack

import h11
from jeepney import DBusAddress, new_method_call
from jeepney.io.blocking import DBusConnection
from qemu.qmp import QMPClient

from stereos_proto_io import asyncio as stereos_asyncio
from stereos_proto_io import blocking

from .harness import Report, compare, compare_async
from .peer import peer

SECTION = "whole clients: one request and its reply"


def run(report: Report) -> None:
    """Compare blocking clients with each other, and asyncio clients with each other."""
    for apart, where in ((True, "a CPU each"), (False, "one CPU")):
        _blocking(report, where, apart)
        asyncio.run(_asynchronous(report, where, apart))


def _blocking(report: Report, where: str, apart: bool) -> None:
    with ExitStack() as stack:
        raw = stack.enter_context(peer("stereos", apart=apart))
        client = blocking.Client.attach(stack.enter_context(peer("stereos", apart=apart)).dup())
        stack.callback(client.close)
        bus = DBusConnection(stack.enter_context(peer("dbus", apart=apart)))
        call = new_method_call(DBusAddress("/org/x", bus_name="org.x", interface="org.X"), "Ping")
        contenders = {
            "socket + json": lambda: _by_hand(raw),
            "h11": _http(stack.enter_context(peer("http", apart=apart))),
            "jeepney": lambda: bus.send_and_get_reply(call),
            "stereos": client.get_health,
        }
        report.add(SECTION, compare(f"blocking, {where}", contenders))


def _by_hand(sock: socket.socket) -> object:
    sock.sendall(json.dumps({"type": "get_health"}).encode() + b"\n")
    data = b""
    while not data.endswith(b"\n"):
        data += sock.recv(65536)
    reply = json.loads(data)
    if reply["type"] != "health":
        raise RuntimeError("not a health report")
    return reply["payload"]


def _http(sock: socket.socket) -> object:
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target="/", headers=[("Host", "x")])

    def ask() -> None:
        sock.sendall(connection.send(request))
        sock.sendall(connection.send(h11.EndOfMessage()))
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(sock.recv(65536))
            elif type(event) is h11.EndOfMessage:
                break
        connection.start_next_cycle()

    return ask


async def _asynchronous(report: Report, where: str, apart: bool) -> None:
    with ExitStack() as stack:
        reader, writer = await asyncio.open_connection(sock=stack.enter_context(peer("stereos", apart=apart)).dup())
        qmp = QMPClient("bench")
        await qmp.connect(stack.enter_context(peer("qmp", apart=apart)).dup())
        client = await stereos_asyncio.Client.attach(stack.enter_context(peer("stereos", apart=apart)).dup())

        async def by_hand() -> object:
            writer.write(json.dumps({"type": "get_health"}).encode() + b"\n")
            return json.loads(await reader.readline())

        contenders = {
            "streams + json": by_hand,
            "qemu.qmp": lambda: qmp.execute("query-status"),
            "stereos": client.get_health,
        }
        report.add(SECTION, await compare_async(f"asyncio, {where}", contenders))
        await client.aclose()
        await qmp.disconnect()
        writer.close()
        await writer.wait_closed()
