"""Numbers of the wire. Their source is `docs/protocol.md`; sections are named beside each."""

from __future__ import annotations

from typing import Final

#: Port on which a StereOS guest listens, whatever the transport (§2).
GUEST_PORT: Final = 1024

#: Context id that a hypervisor usually gives its only guest on AF_VSOCK (§2).
GUEST_CID: Final = 3

#: Seconds that a host waits for a reply unless told otherwise (§2).
DEFAULT_TIMEOUT: Final = 10.0

#: Longest line in bytes, its ending included (§1). The reference reads into a buffer of 1 MiB that must
#: hold the line *and* its newline, and refuses to go on when the buffer is full without one: so 1,048,575
#: bytes of content before "\n", one less before "\r\n", and 1,048,575 before an end of file.
MAX_LINE_SIZE: Final = 1024 * 1024

#: Requests that may wait for their reply at once on one connection. The guest blocks once its replies fill
#: both socket buffers (seen at about 7 MB, §1), so a host must stop somewhere; 128 health reports of the
#: size that fills a busy host's screen stay well below.
MAX_PENDING: Final = 128

#: Levels of arrays and objects that a line may nest (§4).
MAX_NESTING: Final = 10_000

#: Levels that a line may nest as far as its value is *kept*: the payload of a type that we do not know. Deeper
#: values could not even be compared or printed within Python's own recursion limit. Ignored members may nest
#: `MAX_NESTING` levels.
MAX_KEPT_NESTING: Final = 128

U32_MAX: Final = 2**32 - 1
I64_MIN: Final = -(2**63)
I64_MAX: Final = 2**63 - 1

#: File mode of a secret unless told otherwise: its owner reads and writes (§2).
SECRET_MODE: Final = 0o600

#: Longest answer in bytes to a hybrid-vsock CONNECT, newline included (§8).
MAX_HYBRID_VSOCK_ANSWER: Final = 32
