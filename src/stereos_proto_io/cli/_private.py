"""The only place where the command line uses private parts of this package.

Each is imported where it is used, so that a command that opens no stream loads no driver.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from stereos_proto import ConnectError, Preamble
from stereos_proto_io.addresses import Address, Attempt

# ruff: noqa: PLC0415


@attrs.frozen
class _Bare(Address):
    """An address without its preambles."""

    whole: Address

    def __str__(self) -> str:
        return str(self.whole)

    def name(self) -> tuple[str, int] | None:
        """That of the address."""
        return self.whole.name()

    def attempts(self, found: Iterable[Attempt] = ()) -> list[Attempt]:
        """Those of the address."""
        return self.whole.attempts(found)

    def fault(self) -> str:
        """That of the address."""
        return self.whole.fault()

    @property
    def device(self) -> str:
        """That of the address."""
        return self.whole.device


@attrs.frozen
class _Connected(Address):
    """An address whose stream is connected, so that its preambles alone are run."""

    whole: Address
    stream: Any

    def __str__(self) -> str:
        return str(self.whole)

    def open(self) -> Any:
        """The stream."""
        return self.stream

    def preambles(self) -> Iterator[tuple[Preamble, float]]:
        """Those of the address."""
        return self.whole.preambles()


def load_what_dials() -> None:
    """Load what `open_stream` and `run_preamble` need, before threads do.

    Where no descriptor is free, a module cannot be read: of several threads that load it then, one may be told of a
    deadlock instead.
    """
    from stereos_proto_io.blocking import _dial  # noqa: F401


def open_stream(address: Address, by: float) -> Any:
    """Open a stream, without its preamble, before a time of the monotonic clock. Raises ConnectError."""
    from stereos_proto_io.blocking import _dial

    return _dial.dial(_Bare(address), max(by - time.monotonic(), 0.0))[0]


def run_preamble(address: Address, stream: Any, by: float) -> bytes:
    """Run the preamble of a stream, and return what came after it. Raises ConnectError."""
    from stereos_proto_io.blocking import _dial

    return _dial.dial(_Connected(address, stream), max(by - time.monotonic(), 0.0))[1]


def bind(address: Address) -> Any:
    """A place to listen at, bound. Raises OSError and ValueError."""
    from stereos_proto_io.guest import _listen

    return _listen.bind_all(address)[0]


def nobody_listens(address: Address, error: ConnectError) -> bool:
    """Return whether a dial to `address` failed because no guest listens there, as after a power-off."""
    from stereos_proto_io import _errors

    return _errors.nobody_listens(address, error)


def no_answer(address: Address) -> ConnectError:
    """Return the error for a dial to `address` that had no answer in time."""
    from stereos_proto_io import _errors

    return _errors.no_answer(str(address))


def clean_path(path: str) -> str:
    """Return a path as the guest reads it."""
    from stereos_proto_io.guest import _go

    return _go.clean_path(path)
