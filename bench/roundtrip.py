"""A driver's `ping` beside the same exchange written by hand on the runtime's own socket, protocol or stream.

The exchange by hand does as little as one can: it writes a constant, and takes whatever ends in a newline for
the reply. It has no deadline, no other callers, and nothing checks what came.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress
from typing import Any

import trio

from stereos_proto_io import asyncio as stereos_asyncio
from stereos_proto_io import blocking
from stereos_proto_io import trio as stereos_trio

from .harness import Report, compare, compare_async
from .peer import peer

SECTION = "round trip: ping, by hand and with a driver"

PING = b'{"type":"ping"}\n'

#: What the design allows (trio's own waiting varies more).
TARGET, TRIO_TARGET = 1.15, 1.3


def run(report: Report) -> None:
    """Compare the three drivers, and asyncio's on uvloop, with exchanges by hand."""
    for apart, where in ((True, "a CPU each"), (False, "one CPU")):
        # Both ends on one CPU show what the drivers compute. There is no target: a real guest has other CPUs.
        target, trio_target = (TARGET, TRIO_TARGET) if apart else (None, None)
        with ExitStack() as stack:
            _blocking(report, f"blocking, {where}", target, *_ends(stack, apart, 3))
        with ExitStack() as stack:
            asyncio.run(_on_asyncio(report, f"asyncio, {where}", target, *_ends(stack, apart, 2)))
        with ExitStack() as stack, suppress(ImportError):
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_on_asyncio(report, f"asyncio on uvloop, {where}", target, *_ends(stack, apart, 2)))
        with ExitStack() as stack:
            trio.run(_on_trio, report, f"trio, {where}", trio_target, *_ends(stack, apart, 3))


def _ends(stack: ExitStack, apart: bool, number: int) -> list[socket.socket]:
    return [stack.enter_context(peer("stereos", apart=apart)).dup() for _ in range(number)]


def _blocking(report: Report, title: str, target: float | None, *ends: socket.socket) -> None:
    bare, patient, other = ends
    # What every call of ours has: Python waits for the socket first, and then reads.
    patient.settimeout(10)

    def by_hand(sock: socket.socket) -> None:
        sock.sendall(PING)
        data = b""
        while not data.endswith(b"\n"):
            data += sock.recv(65536)

    with bare, patient, blocking.Client.attach(other) as client:
        contenders = {
            "by hand": lambda: by_hand(bare),
            "by hand, with a timeout": lambda: by_hand(patient),
            "driver": client.ping,
        }
        report.add(SECTION, compare(title, contenders, target=target, turns=41))


class _Bare(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.data.endswith(b"\n"):
            self.reply.set_result(self.data)

    async def ask(self) -> bytes:
        self.data = b""
        self.reply: asyncio.Future[bytes] = self.loop.create_future()
        self.transport.write(PING)
        return await self.reply


async def _on_asyncio(
    report: Report, title: str, target: float | None, bare: socket.socket, other: socket.socket
) -> None:
    loop = asyncio.get_running_loop()
    transport, by_hand = await loop.create_unix_connection(_Bare, sock=bare)
    async with await stereos_asyncio.Client.attach(other) as client:
        contenders = {"by hand": by_hand.ask, "driver": client.ping}
        report.add(SECTION, await compare_async(title, contenders, target=target, turns=41))
    transport.abort()


async def _on_trio(report: Report, title: str, target: float | None, *ends: socket.socket) -> None:
    bare, patient, other = ends
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(bare))
    patient.setblocking(False)

    async def by_hand() -> None:
        await stream.send_all(PING)
        data = b""
        while not data.endswith(b"\n"):
            data += await stream.receive_some(65536)

    async def waiting() -> None:
        # The stream goes once through the scheduler between writing and reading. Where the reply takes no longer than
        # that, it is there then, and nothing has to be waited for.
        patient.send(PING)
        data = b""
        while not data.endswith(b"\n"):
            await trio.lowlevel.wait_readable(patient)
            data += patient.recv(65536)

    async with stream, stereos_trio.Client.attach(other) as client:
        contenders = {"by hand": by_hand, "by hand, waiting at once": waiting, "driver": client.ping}
        report.add(SECTION, await compare_async(title, contenders, target=target, turns=41))
    patient.close()
