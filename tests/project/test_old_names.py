"""A program that was written for 0.1 finds its names where they were, in every later version."""

from __future__ import annotations

import importlib
import warnings

import pytest

#: The public names of 0.1 by module, without those that a module only imported for itself.
NAMES = {
    "stereos_proto": """
        Ack AgentStatus ConnectError Connection ConnectionClosed ConnectionLost CustomRequest DEFAULT_TIMEOUT Event
        GUEST_CID GUEST_PORT GetHealth Health HybridVsockPreamble IncompleteLine InjectSSHKey InjectSecret
        InvalidMessage JcardError Lifecycle LifecycleState LineTooLong LocalProtocolError MAX_LINE_SIZE MAX_PENDING
        MalformedLine MalformedReceived Message MessageType Mount NEED_DATA NotReady Notification
        NotificationReceived OutcomeUnknown Ping Pong Preamble PreambleError PreambleFailure ProtocolError
        ProvisionPlan ProvisionReport ProvisionStep RemoteProtocolError Reply ReplyReceived Request RequestFailed
        RequestReceived RequestTimeout ResyncPreamble Role SetConfig Shutdown State StepStatus StereosError
        UnexpectedReply UnknownMessage UnknownReceived decode encode load_jcard
    """,
    "stereos_proto.dialogues": """
        ATTEMPT_TIMEOUT Backoff Connect FIRST_ATTEMPT READY_STATES ReadyWait Send SendMany Sleep WaitProgress
        provision shut_down wait_ready
    """,
    "stereos_proto.testing": """
        Answer ConnectionPair EOF End Expected Outcome ScriptedGuest assert_chunking_invariant feed_in_chunks
    """,
    "stereos_proto.testing.strategies": """
        Exchange conversations cuts envelopes from_message_class is_sendable json_values lines malformed_lines
        message_classes messages nearly_valid_lines partitions replies_to states
    """,
    "stereos_proto_io": """
        Address ConnectError ConnectionLost Dial HybridVsock IncompleteLine InvalidMessage JcardError LineTooLong
        LocalProtocolError MalformedLine NotReady OutcomeUnknown PreambleError ProtocolError RemoteProtocolError
        RequestFailed RequestTimeout StereosError TCP UnexpectedReply UnixSocket VirtioSerial Vsock parse_address
        read_jcard
    """,
    "stereos_proto_io.addresses": """
        Dial HybridVsock MAX_UNIX_PATH TCP U32_MAX UnixSocket VirtioSerial Vsock parse_address
    """,
    "stereos_proto_io.asyncio": """
        Client connect connect_when_ready
    """,
    "stereos_proto_io.blocking": """
        Client connect connect_when_ready
    """,
    "stereos_proto_io.cli": """
        main
    """,
    "stereos_proto_io.guest": """
        Effects FAULTS FORK_TYPES Fault FaultPlan GuestSimulator OLD_TYPES REFERENCE_TYPES RequestRefused Secret
        parse_fault
    """,
    "stereos_proto_io.guest.asyncio": """
        GuestServer serve
    """,
    "stereos_proto_io.guest.blocking": """
        GuestServer serve
    """,
    "stereos_proto_io.guest.conformance": """
        CASES Case Deviation Need Outcome Report Result run
    """,
    "stereos_proto_io.guest.effects": """
        FolderEffects
    """,
    "stereos_proto_io.guest.faults": """
        Blank CloseAfter ConnectionFault Cut Delay Drop Duplicate FAULTS Fail Fault FaultPlan Garbage GuestFault
        Half HangUp Late NeverReady Omit Outgoing OverLong PowerLoss Push Refuse RequestFault Reset Restart SlowBoot
        Stall Swap WrongType parse_fault
    """,
    "stereos_proto_io.guest.simulator": """
        CONFIG_FILE Effects FORK_TYPES GuestSimulator OLD_TYPES REFERENCE_TYPES RequestRefused SECRETS_FOLDER
        STOCK_USERS Secret agents_of
    """,
    "stereos_proto_io.guest.trio": """
        GuestServer serve
    """,
    "stereos_proto_io.pytest_plugin": """
        pytest_configure stereos_guest
    """,
    "stereos_proto_io.testing": """
        ClientCase SimulatedGuest check_client client_cases simulated_guest
    """,
    "stereos_proto_io.trio": """
        Client connect connect_when_ready
    """,
}

#: Names that have a better one now, and say so.
DEPRECATED = {
    ("stereos_proto_io.addresses", "U32_MAX"),
    ("stereos_proto_io.guest.simulator", "agents_of"),
    *(("stereos_proto_io.guest.conformance", name) for name in NAMES["stereos_proto_io.guest.conformance"].split()),
}

#: What is gone, with the reason: nothing that a program of a user had a use for.
GONE = {
    ("stereos_proto_io.guest.faults", "Outgoing"): "what the parts of the server said to each other about one reply",
}

#: Modules that need an extra.
EXTRAS = {
    "stereos_proto.testing.strategies": "hypothesis",
    "stereos_proto_io.guest.trio": "trio",
    "stereos_proto_io.pytest_plugin": "pytest",
    "stereos_proto_io.trio": "trio",
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_where_they_were(module):
    if module in EXTRAS:
        pytest.importorskip(EXTRAS[module])
    found = importlib.import_module(module)
    missing = []
    for name in NAMES[module].split():
        if (module, name) in GONE or (module, name) in DEPRECATED:
            continue
        # As a warning is an error here, this holds that they give none.
        if not hasattr(found, name):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize(("module", "name"), sorted(DEPRECATED))
def test_names_with_a_better_one_say_so(module, name):
    assert name in NAMES[module].split()
    with pytest.warns(DeprecationWarning, match=rf"^{module}.{name} is deprecated; ") as caught:
        getattr(importlib.import_module(module), name)
    # The line to change is in the program, not in the library.
    assert caught[0].filename == __file__


def test_what_was_never_there_is_not_there():
    for module in sorted({module for module, _ in DEPRECATED}):
        with pytest.raises(AttributeError, match=f"^module '{module}' has no attribute 'nonsense'$"):
            importlib.import_module(module).nonsense  # noqa: B018


def test_old_names_mean_what_they_meant():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from stereos_proto_io.addresses import U32_MAX
        from stereos_proto_io.guest.simulator import agents_of
    assert U32_MAX == 2**32 - 1
    assert [agent.name for agent in agents_of('[[agents]]\nname = "coder"\nharness = "claude-code"\n')] == ["coder"]
    assert list(agents_of("no TOML")) == []
