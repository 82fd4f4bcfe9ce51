"""A caller that gives up a dial leaves nothing behind, not even a complaint of the event loop."""

import asyncio
import gc
import socket

import pytest

from stereos_proto_io import HybridVsock
from stereos_proto_io.asyncio import connect


def test_a_preamble_that_is_given_up(tmp_path):
    """Closing the stream ends the preamble in an error that nobody waits for any more."""
    complaints = []

    async def give_up():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connect(HybridVsock(tmp_path / "silent"))
        await asyncio.sleep(0)
        gc.collect()

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        asyncio.run(give_up())
        gc.collect()
    assert complaints == []
