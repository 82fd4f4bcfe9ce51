"""The message types that each make of guest knows (`docs/protocol.md` §2)."""

from __future__ import annotations

from typing import Final

from stereos_proto import MessageType

#: Message types that today's reference knows (§2).
REFERENCE_TYPES: Final = frozenset(
    {
        MessageType.PING,
        MessageType.GET_HEALTH,
        MessageType.SET_CONFIG,
        MessageType.INJECT_SECRET,
        MessageType.INJECT_SSH_KEY,
        MessageType.MOUNT,
        MessageType.SHUTDOWN,
    }
)
#: What an old guest knows (§2). It refuses the rest as unknown, `get_health` too.
OLD_TYPES: Final = frozenset(
    {MessageType.PING, MessageType.INJECT_SECRET, MessageType.MOUNT, MessageType.SHUTDOWN},
)
#: What a fork adds (§2): types without a class of their own, all acked.
FORK_TYPES: Final = REFERENCE_TYPES | {
    "unmount",
    "stop_agent",
    "force_stop_agent",
    "create_sandbox_user",
    "destroy_sandbox_user",
}
