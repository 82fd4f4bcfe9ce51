"""Why each error comes, and what to do about it: for the page about errors."""

from __future__ import annotations

from typing import NamedTuple


class Remedy(NamedTuple):
    """Why an error comes, and what to do about it."""

    cause: str
    remedy: str


REMEDIES: dict[str, Remedy] = {
    "StereosError": Remedy(
        "Base of all errors of this library.",
        "Catch it where every failure of a guest is handled alike: all that the clients raise about a guest is one, "
        "but for what the function of a `Dial` raises.",
    ),
    "ProtocolError": Remedy(
        "Base of the two below; never raised itself.",
        "Catch one of the two: whose mistake it was decides what to do.",
    ),
    "LocalProtocolError": Remedy(
        "You asked for what cannot be sent: a line over 1 MiB, a lone surrogate, a number out of its range, an SSH key "
        "with a newline inside, more requests in flight than `max_pending`, a message after the end of the connection, "
        "a reply that nobody asked for.",
        "Correct the call; nothing was sent, and the connection goes on unless it had ended. In a server, it is a "
        "fault of the handler.",
    ),
    "RemoteProtocolError": Remedy(
        "The other end sent what the protocol forbids.",
        "Close the connection and dial again. If it comes back, this is no StereOS guest, or one that is broken: "
        "`stereosctl record` shows what it says.",
    ),
    "LineTooLong": Remedy(
        "A line of the peer is over 1 MiB, or over the `max_line_size` that you set.",
        "Dial again. Raise `max_line_size` only if you had lowered it: guests do not send longer lines.",
    ),
    "MalformedLine": Remedy(
        "A line of the peer is not a JSON object with a textual `type`. Often something else listens at the address.",
        "Check the address with `stereosctl doctor`. On virtio-serial use the address `serial://`, which "
        "resynchronises first.",
    ),
    "IncompleteLine": Remedy(
        "The peer has closed the connection in the middle of a line: it crashed, or was powered off.",
        "Wait for the guest with `connect_when_ready`, then ask `get_health` what state it is in.",
    ),
    "InvalidMessage": Remedy(
        "A known type came with a payload that does not fit it, such as a number where a text belongs.",
        "`path` says which member. The guest is of another make than it should be: compare versions.",
    ),
    "UnexpectedReply": Remedy(
        "A reply came that answers no request, or not the oldest one. Another program may be on the same stream.",
        "Dial again. On virtio-serial, see that only one host uses the port.",
    ),
    "PreambleError": Remedy(
        "The bytes before the protocol went wrong: hybrid vsock's CONNECT, or virtio-serial's resynchronisation.",
        "`failure.retryable` tells whether to try again. If it is not, this is no hybrid-vsock socket, or one of "
        "another program. Clients wrap it in a `ConnectError`.",
    ),
    "ConnectError": Remedy(
        "No connection could be made: nobody listens yet, no such socket, no permission, no AF_VSOCK here.",
        "With `retryable`, use `connect_when_ready`, which tries until its deadline. Otherwise the text names what is "
        "to be changed.",
    ),
    "ConnectionLost": Remedy(
        "The connection ended before the reply came, or before the request could be sent.",
        "Dial again. What changes nothing in the guest can be asked again; see `OutcomeUnknown` for the rest: it is "
        "a `ConnectionLost`, so catch it first.",
    ),
    "OutcomeUnknown": Remedy(
        "The connection ended between a request that changes something and its reply. It may have been carried out.",
        "Secrets, SSH keys and the config can be sent again: that ends in the same state. A mount cannot: a second one "
        "lies over the first.",
    ),
    "RequestFailed": Remedy(
        "The guest read the request and refused. `error` holds its own words.",
        "Do what the words say. `unknown message type` means that the guest is older than the request.",
    ),
    "RequestTimeout": Remedy(
        "The reply did not come in time. With `sent`, the guest may still carry the request out. It is Python's "
        "`TimeoutError`, too.",
        "The connection stays usable, and a late reply is swallowed. If it happens again, the guest is paused or "
        "overloaded: look at it with `stereosctl watch`.",
    ),
    "NotReady": Remedy(
        "The deadline passed before the guest was ready, or it said that it is shutting down, or it is so old that it "
        "does not know `get_health`.",
        "`last_state` and `last_error` say how far it got. Never a state: it does not boot, or the address is wrong. "
        "`booting`: give it more time. `ready`, with agents named: look at their `error`.",
    ),
    "JcardError": Remedy(
        "A jcard.toml is not valid TOML, has a value of the wrong type, a value that the guest would refuse, the same "
        "name or place twice, or names a variable that is not set.",
        "The text names file, line and key. Set the variable in the environment of the program that loads it.",
    ),
}
