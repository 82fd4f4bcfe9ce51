"""Files and standard input, read within bounds: neither may be endless, such as /dev/zero, nor larger than memory."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

from stereos_proto import MAX_LINE_SIZE

#: Bytes of a file whose content is sent in one request.
MOST_SENT: Final = MAX_LINE_SIZE
#: Bytes of a file that is read as a whole and not sent: a transcript, a journal, a state of mb.
MOST_READ: Final = 256 * 1024 * 1024

#: Bytes that are read at a time. A signal takes effect between two reads.
_CHUNK: Final = 1024 * 1024


class TooLong(ValueError):
    """A file has more bytes than are read. The text says so, without the file's name."""


def read_at_most(source: Path | BinaryIO, most: int) -> bytes:
    """What is in a file. Raises TooLong, and OSError."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return read_at_most(file, most)
    data = bytearray()
    while chunk := source.read(_CHUNK):
        data += chunk
        if len(data) > most:
            what = "sent" if most == MOST_SENT else "read"
            raise TooLong(f"it is longer than {most} bytes, which is the most that can be {what}")
    return bytes(data)
