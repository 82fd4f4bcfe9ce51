"""What a StereOS guest takes for a public key (`docs/protocol.md` §6)."""

from __future__ import annotations

from typing import Final

#: What the text of a key begins with: its type, and one space.
KEY_TYPES: Final = tuple(
    f"{name} "
    for name in (
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    )
)
