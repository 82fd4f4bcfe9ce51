"""What a guest on trio reads and writes."""

from __future__ import annotations

from typing import Final

import trio

from ._device import AWAY_PAUSE, Device

_CHUNK: Final = 64 * 1024


class DeviceStream(trio.abc.Stream):
    """A virtio-serial port in the guest. It never ends: a host that is away is waited for."""

    def __init__(self, device: Device) -> None:
        self._device = device

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes. Never returns b""."""
        await trio.lowlevel.checkpoint()
        while not (data := self._device.read(max_bytes or _CHUNK)):
            if data is None and not self._device.is_away:
                await trio.lowlevel.wait_readable(self._device)
            else:
                await trio.sleep(AWAY_PAUSE)
        return data

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a host may be there and have room."""
        if self._device.is_away:
            await trio.sleep(AWAY_PAUSE)
        else:
            await trio.lowlevel.wait_writable(self._device)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`, also to a host that is away: then wait for it."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            written = self._device.write(rest)
            rest = rest[written:]
            if not written:
                await self.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the port."""
        self._device.close()
        await trio.lowlevel.checkpoint()
