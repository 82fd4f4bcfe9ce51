"""Clients that are wrong on purpose, each by one small change, and the case of `check_client` that finds each.

A row is a function or a class whose docstring says what is wrong. A class is a client. A function changes a part of
the shipped clients with `patch` and returns what makes the client, or None for the driver's own `connect`.
"""

import inspect

import attrs

from stereos_proto_io import blocking

from ..harness import ASYNCIO, BLOCKING, TRIO


@attrs.frozen
class Wrong:
    """One row of the table."""

    name: str
    what: str
    case: str
    driver: object
    change: object

    def make(self, patch):
        """Apply the change; return what makes the client, and what dials until the guest is ready."""
        if isinstance(self.change, type):
            return self.change, self.when_ready
        made = self.change(patch)
        if isinstance(made, tuple):
            return made
        return made or self.driver.module.connect, self.when_ready

    def when_ready(self, address, seconds):
        return self.driver.module.connect_when_ready(address, timeout=seconds)


TABLE = []


def wrong(case, driver=BLOCKING):
    """Add a row: the case that finds it, and the driver that is changed."""

    def add(change):
        TABLE.append(Wrong(change.__name__, inspect.getdoc(change), case, driver, change))
        return change

    return add


class Client:
    """A client that gets everything right, until a subclass gets something wrong."""

    def __init__(self, address):
        self.address = address
        self.client = blocking.connect(address)

    def __getattr__(self, name):
        return getattr(self.client, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.client.close()


from . import parts, session, verbs  # noqa: E402, F401  (they fill the table)

__all__ = ["ASYNCIO", "BLOCKING", "TABLE", "TRIO", "Client", "Wrong", "wrong"]
