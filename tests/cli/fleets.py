"""Guests by the dozen, as virtual machines of mb's."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager

from stereos_proto import Health
from stereos_proto_io import TCP
from stereos_proto_io.guest.blocking import serve
from stereos_proto_io.testing import simulated_guest


def keep_state(folder, name, state):
    place = folder / "vms" / name
    place.mkdir(parents=True)
    (place / "state.json").write_text(state if isinstance(state, str) else json.dumps(state))


def keep_guest(folder, name, address):
    keep_state(folder, name, {"backend": "qemu", "vsock_port": address.port})


@contextmanager
def fleet(folder, options):
    """Simulated guests, each a machine of mb's, for a dict of names and what `simulated_guest` takes."""
    with ExitStack() as stack:
        guests = {name: stack.enter_context(simulated_guest(**given)) for name, given in options.items()}
        for name, guest in guests.items():
            keep_guest(folder, name, guest.address)
        yield guests


@contextmanager
def reporting(handler):
    """A guest that answers as `handler` says."""
    with serve(TCP("127.0.0.1", 0), handler) as server:
        yield server


class Flapping:
    """Reports each of `healths` once, and the last of them for ever."""

    def __init__(self, *healths: Health):
        self._healths = list(healths)

    def __call__(self, _request):
        return self._healths.pop(0) if len(self._healths) > 1 else self._healths[0]
