"""No secret stands in an error, nor in the locals of our frames, also when the guest repeats it."""

import copy
import json
import pickle
import socket
import sys
import traceback
from pathlib import Path

import pytest

from stereos_proto import InjectSecret, ProvisionPlan, SetConfig, StereosError

from .guests import lines, scripted
from .harness import attached, each_driver, result

SENTINEL = "s3nt1nel-0123456789"
SOURCE = Path(sys.modules["stereos_proto"].__file__).parent.parent


def refusing(sock):
    """A guest that quotes what it was sent."""
    for line in lines(sock):
        message = json.loads(line)
        error = f"cannot write {message['payload'].get('value') or message['payload'].get('content')}"
        ack = {"type": "ack", "payload": {"reply_to": message["type"], "ok": False, "error": error}}
        sock.sendall(json.dumps(ack).encode() + b"\n")


def leaving(sock):
    sock.recv(10)


ASK = {
    "inject_secret": lambda client: client.inject_secret("NAME", SENTINEL),
    "set_config": lambda client: client.set_config(SENTINEL),
    "request": lambda client: client.request(InjectSecret("NAME", SENTINEL)),
    "request_many": lambda client: client.request_many([SetConfig(SENTINEL), InjectSecret("NAME", SENTINEL)]),
    "provision": lambda client: client.provision(
        ProvisionPlan(secrets=(InjectSecret("NAME", SENTINEL),), config=SENTINEL)
    ),
}


def ours(error):
    """The traceback of `error`, less the frames of tests and of the event loops, with the locals of each frame."""
    shown = []
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            if Path(frame.f_code.co_filename).is_relative_to(SOURCE):
                shown.append(f"{frame.f_code.co_name}:{line} {frame.f_locals!r}")
        shown.append(f"{error} {error!r} {error.args!r}")
        error = error.__cause__ or error.__context__
    return "\n".join(shown)


@each_driver
@pytest.mark.parametrize("verb", ASK)
@pytest.mark.parametrize("guest", [refusing, leaving], ids=lambda guest: guest.__name__)
def test_a_request_that_fails_shows_no_secret(driver, verb, guest):
    async def main():
        async with attached(driver, stream) as client:
            failed = None
            try:
                await result(ASK[verb](client))
            except StereosError as exc:
                failed = exc
            assert SENTINEL not in ours(failed)
            assert SENTINEL not in repr(client) + repr(vars(client))

    with scripted(guest) as stream:
        driver.run(main)


@each_driver
@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_is_neither_copied_nor_pickled(driver, how):
    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(TypeError, match="belongs to one stream"):
                how(client)

    ours, theirs = socket.socketpair()
    with theirs:
        driver.run(main)
