"""The layers without IO: replies follow from requests, and a `match` over events is complete."""

from typing import assert_never, assert_type

from stereos_proto import (
    NEED_DATA,
    Ack,
    Call,
    CallDone,
    Connection,
    ConnectionClosed,
    CustomRequest,
    Dialogue,
    DialWanted,
    Event,
    GetHealth,
    Health,
    HostClient,
    HostSession,
    InjectSecret,
    LifecycleState,
    MalformedReceived,
    Message,
    NotificationReceived,
    Ping,
    Pong,
    ProvisionPlan,
    ProvisionReport,
    Reply,
    ReplyReceived,
    Request,
    RequestReceived,
    Role,
    SessionEnded,
    State,
    TaskDone,
    UnknownReceived,
    decode,
    encode,
    load_jcard,
)
from stereos_proto.dialogues import provision, shut_down, wait_ready

# Members of these are keys in programs of users.
BY_ROLE: dict[Role, str] = {Role.HOST: "host", Role.GUEST: "guest"}
BY_STATE: dict[State, int] = {state: number for number, state in enumerate(State)}


def describe(event: Event) -> str:
    """Name what happened; a checker complains when a kind of event is missing."""
    match event:
        case ReplyReceived(message=message, request=request):
            assert_type(message, Reply)
            return f"{request} {message}"
        case NotificationReceived(message=message):
            return str(message)
        case RequestReceived(message=message):
            assert_type(message, Request)
            return message.type
        case UnknownReceived(type=name):
            return name
        case MalformedReceived(error=error):
            return str(error)
        case ConnectionClosed():
            return "closed"
        case _:
            assert_never(event)


def end_of(role: Role) -> str:
    """An Enum is matched to its end, too."""
    match role:
        case Role.HOST:
            return "host"
        case Role.GUEST:
            return "guest"
        case _:
            assert_never(role)


def protocol(connection: Connection) -> list[str]:
    """The protocol: bytes and events."""
    assert_type(connection.send(Ping()), bytes)
    assert_type(connection.their_role, Role)
    assert_type(connection.our_state, State)
    return [describe(event) for event in connection.events()]


def codec(line: bytes) -> Message:
    """The codec: a line, and a message."""
    assert_type(encode(Ping()), bytes)
    return decode(line, sender=Role.GUEST)


def conversation(session: HostSession) -> None:
    """Sessions: each request has the reply of its kind."""
    call = session.request(Ping(), deadline=5.0)
    assert_type(call, Call[Pong])
    assert_type(call.result(), Pong)
    assert_type(session.request(GetHealth()).result(), Health)
    assert_type(session.request(InjectSecret("NAME", "value")).result(), Ack)
    while (event := session.next_event()) is not NEED_DATA:
        match event:
            case CallDone():
                assert_type(event.call.done, bool)
            case NotificationReceived() | UnknownReceived():
                pass
            case SessionEnded(error=error):
                print(error)
            case _:
                assert_never(event)


def client(host: HostClient) -> str:
    """A client of a loop of callbacks."""
    assert_type(host.session, HostSession)
    task = host.wait_ready()
    while (event := host.next_event()) is not NEED_DATA:
        match event:
            case DialWanted(deadline=deadline):
                assert_type(deadline, float | None)
            case TaskDone() | CallDone() | NotificationReceived() | UnknownReceived() | SessionEnded():
                pass
            case _:
                assert_never(event)
    return task.result().state


def mine(names: tuple[str, ...]) -> Dialogue[int]:
    """A dialogue of one's own, of the library's parts."""
    health = yield from wait_ready()
    assert_type(health, Health)
    report = yield from provision(load_jcard("", env={}))
    assert_type(report, ProvisionReport)
    assert_type((yield from shut_down()), Ack | None)
    return len(names)


def plan(text: str) -> ProvisionPlan:
    """Plans: what is wrong with them, and whom they start."""
    found = load_jcard(text, env={"KEY": "value"})
    assert_type(found.warnings, tuple[str, ...])
    print(*found.agents, LifecycleState.READY.value)
    return found


def forks(session: HostSession) -> Reply:
    """A request of a fork has any reply."""
    return session.request(CustomRequest("unmount", {"guest_path": "/work"})).result()
