"""`--listen`: where a command listens."""

from __future__ import annotations

from stereos_proto_io.addresses import Address

from ._errors import UsageError
from ._targets import address_of, looks_like_address


def listening_address(text: str) -> Address:
    """The address that --listen gives. Raises UsageError, with the text: it stands in no place of a secret."""
    try:
        return address_of(text)
    except UsageError as exc:
        if repr(text) in str(exc) or looks_like_address(text):
            raise
        raise UsageError(
            f"--listen: {text!r} is not an address; one looks like tcp://HOST:PORT, unix:///PATH or vsock://CID:PORT"
        ) from None
