"""A secret is seen nowhere but on the wire: not in a repr, an error, a traceback with its locals, a log, a trace."""

import asyncio
import contextlib
import copy
import errno
import gc
import io
import itertools
import json
import logging
import pickle
import socket
import sys
import threading
import traceback
import warnings
from functools import partial

import pytest
import trio

import stereos_proto_io.asyncio
import stereos_proto_io.blocking
import stereos_proto_io.trio
from ctrl_c import Interrupt, bytecode_of_3_11
from guest_harness import KINDS, Host, running
from interrupts import interrupt
from stereos_proto import (
    Ack,
    Connection,
    ConnectionLost,
    CustomRequest,
    GuestSession,
    Health,
    HostSession,
    InjectSecret,
    InjectSSHKey,
    JcardError,
    LocalProtocolError,
    Mount,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Redactor,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    Role,
    SetConfig,
    StereosError,
    UnexpectedReply,
    _redact,
    decode,
    encode,
    load_jcard,
    redact_reply,
)
from stereos_proto._codec import reader, write
from stereos_proto.testing import ConnectionPair
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.testing import simulated_guest

SENTINEL = "s3nt1nel-9f2c"
CARRIERS = [
    InjectSecret("TOKEN", SENTINEL),
    SetConfig(f'[secrets]\nTOKEN = "{SENTINEL}"\n'),
    CustomRequest("stop_agent", {"token": [SENTINEL, {"deep": SENTINEL}]}),
]
#: Requests that carry the secret and cannot be sent.
UNSENDABLE = [
    InjectSecret("TOKEN", SENTINEL, -1),
    InjectSecret("TOKEN", SENTINEL + "\udc80"),
    InjectSecret("TOKEN", SENTINEL * 100_000),
    InjectSecret("TOKEN", SENTINEL.encode()),
    InjectSecret(5, SENTINEL),
    InjectSecret("TOKEN", SENTINEL, SENTINEL),
    InjectSecret("TOKEN", [SENTINEL]),
    SetConfig(SENTINEL + "\ud800"),
    SetConfig({SENTINEL: SENTINEL}),
    SetConfig(SENTINEL * 100_000),
    CustomRequest("x", {SENTINEL: {1, 2}}),
    CustomRequest("x", {"a": object(), "b": SENTINEL}),
    CustomRequest("x", {1: SENTINEL}),
    CustomRequest("x", [SENTINEL, float("nan")]),
    CustomRequest("x", SENTINEL + "\udc80"),
    CustomRequest("inject_secret", {"value": SENTINEL}),
]
#: Lines of a host that carry the secret and cannot be read.
UNREADABLE = [
    f'{{"type":"inject_secret","payload":{{"name":"TOKEN","value":"{SENTINEL}"}}',
    f'{{"type":"inject_secret","payload":{{"name":"TOKEN","value":"{SENTINEL}","mode":"x"}}}}',
    f'{{"type":"inject_secret","payload":{{"name":1,"value":"{SENTINEL}"}}}}',
    f'{{"type":"inject_secret","payload":{{"name":"a","value":["{SENTINEL}"]}}}}',
    f'{{"type":"inject_secret","payload":"{SENTINEL}"}}',
    f'{{"type":"set_config","payload":{{"content":{{"{SENTINEL}":0}}}}}}',
    f'{{"type":{{"{SENTINEL}":0}}}}',
    f'["{SENTINEL}"]',
    f'"{SENTINEL}"',
    f"{SENTINEL}",
    f'{{"type":"set_config","payload":{{"content":"{SENTINEL}\\x"}}}}',
    f'{{"type":"set_config","payload":{{"content":"{SENTINEL}\t"}}}}',
    f'{{"{SENTINEL}"}}',
    f'{{"type":"x","payload":{"[" * 200}"{SENTINEL}"{"]" * 200}}}',
    f'{{"type":"mount","payload":{{"{SENTINEL}":0,"read_only":"{SENTINEL}"}}}}',
]


# ------------------------------------------------------------------------------------------- where to look


def faces(value):
    """All that a value shows of itself."""
    return [repr(value), str(value), f"{value}", f"{value!r}", ascii(value), "%s" % (value,)]  # noqa: UP031


def shown(error):
    """All that an error shows, its chain and the locals of its frames included, ours and those of what we call. Only
    the tests of this file hold the secret.
    """
    waiting, seen, texts = [error], set(), []
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        texts += [str(current), repr(current), repr(current.args), repr(vars(current))]
        for frame, line in traceback.walk_tb(current.__traceback__):
            if frame.f_code.co_filename != __file__:
                place = f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}"
                for name, local in frame.f_locals.items():
                    with contextlib.suppress(AttributeError):  # half made, it cannot show itself
                        texts.append(f"{place}: {name} = {local!r}")
        waiting += [current.__cause__, current.__context__]
        waiting += getattr(current, "exceptions", ())
    return texts


def assert_silent(texts):
    told = [text[:300] for text in texts if SENTINEL in text]
    assert told == []


@pytest.fixture(autouse=True)
def everything_else(caplog, capfd, monkeypatch):
    """Nothing is logged, warned of, or printed, in any test of this file."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    formatter = logging.Formatter("%(message)s %(args)s %(exc_text)s")
    assert_silent([formatter.format(record) for record in caplog.records])
    for record in caplog.records:
        if record.exc_info:
            # Some handlers show the locals as well.
            assert_silent(shown(record.exc_info[1]))
    assert_silent([str(warning.message) for warning in caught])
    assert_silent(capfd.readouterr())


# -------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("request_", CARRIERS, ids=lambda request: request.type)
def test_messages(request_):
    assert SENTINEL.encode() in encode(request_)
    assert_silent(faces(request_))
    assert_silent(faces([request_, (request_,), {"x": request_}]))
    step = ProvisionStep.of(request_, Ack(request_.type, False, "no room"))
    assert_silent([*faces(step), step.label, *shown(step.error)])
    assert_silent(faces(ProvisionReport((step,))))


def test_plans():
    plan = ProvisionPlan(secrets=[CARRIERS[0]], config=CARRIERS[1].content)
    assert_silent(faces(plan))
    with pytest.raises(LocalProtocolError) as caught:
        ProvisionPlan(secrets=[CARRIERS[0], UNSENDABLE[0]])
    assert_silent(shown(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        f'[secrets]\nTOKEN = "{SENTINEL}',
        f'[secrets]\nTOKEN = ["{SENTINEL}"]',
        f'[secrets]\nTOKEN = "{SENTINEL} ${{UNSET}}"',
        f'[secrets]\n"a/b" = "{SENTINEL}"',
        f'[secrets]\nTOKEN = "{SENTINEL}"\nTOKEN = "{SENTINEL}"',
        f'[secrets]\nTOKEN = "{SENTINEL}"\n[[shared]]\nguest = 5',
        f'[secrets]\nTOKEN = "{SENTINEL}"\n[[shared]]\nguest = "relative"',
        f'[secrets]\nTOKEN = "{SENTINEL}"\n{SENTINEL}',
        f'[secrets]\nTOKEN = "{SENTINEL}"\n\0',
        f'[secrets]\nTOKEN = "{SENTINEL}\\q"',
        f"[secrets]\nTOKEN = {SENTINEL}",
        f"[secrets]\nTOKEN = 0{SENTINEL}",
    ],
)
def test_jcards(text):
    with pytest.raises((JcardError, LocalProtocolError)) as caught:
        load_jcard(text, env={"OTHER": SENTINEL})
    assert_silent(shown(caught.value))


def test_secrets_that_are_no_table():
    """The reference takes them for an empty table, and so do we, with a warning."""
    plan = load_jcard(f'secrets = "{SENTINEL}"', env={})
    assert plan.secrets == ()
    assert SENTINEL not in f"{plan} {plan.config}"


def test_a_jcard_that_is_read():
    plan = load_jcard('[secrets]\nTOKEN = "${OTHER}"\n', env={"OTHER": SENTINEL})
    assert plan.secrets[0].value == SENTINEL
    assert SENTINEL not in plan.config
    assert_silent(faces(plan))


# ---------------------------------------------------------------------------------------------------- core


@pytest.mark.parametrize("request_", UNSENDABLE, ids=lambda request: request.type)
@pytest.mark.parametrize("send", [encode, write, Connection(Role.HOST).send, lambda m: HostSession("g").request(m)])
def test_what_cannot_be_sent(request_, send):
    try:
        error = send(request_)
    except LocalProtocolError as exc:
        error = exc
    else:
        # `write` returns it. What is left can be sent: a custom request with a payload that its class takes.
        if not isinstance(error, Exception):
            assert request_.type == "inject_secret"
            return
    assert_silent(shown(error))


@pytest.mark.parametrize("line", UNREADABLE)
def test_what_cannot_be_read(line):
    data = line.encode()
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, sender=Role.HOST)
    assert_silent(shown(caught.value))
    assert_silent(shown(reader(Role.HOST)(data)))
    connection = Connection(Role.GUEST)
    connection.receive_data(data + b"\n")
    event = connection.next_event()
    assert_silent([*faces(event), *shown(event.error), event.reply.error, *faces(connection)])
    for role in Role:
        cut = Connection(role)
        cut.receive_data(data[:-1])
        cut.receive_eof()
        with contextlib.suppress(RemoteProtocolError):
            assert_silent(faces(cut.next_event()))


def test_what_is_too_long():
    connection = Connection(Role.GUEST, max_line_size=64)
    connection.receive_data(encode(CARRIERS[1]) * 3)
    with pytest.raises(RemoteProtocolError) as caught:
        connection.next_event()
    assert_silent(shown(caught.value))
    host = Connection(Role.HOST, max_line_size=64)
    with pytest.raises(LocalProtocolError) as refused:
        host.send(SetConfig(SENTINEL * 10))
    assert_silent(shown(refused.value))


@pytest.mark.parametrize("request_", CARRIERS, ids=lambda request: request.type)
def test_a_conversation(request_):
    pair = ConnectionPair()
    host, guest = pair.host, pair.guest
    guest.receive_data(host.send(request_))
    event = guest.next_event()
    assert event.message == request_
    assert_silent([*faces(event), *faces(host), *faces(guest), *faces(pair), *faces(host.pending)])
    host.receive_data(guest.send(Ack(request_.type, True)))
    assert_silent(faces(host.next_event()))
    host.send(request_)
    host.receive_data(encode(Pong()))
    with pytest.raises(RemoteProtocolError) as caught:
        host.next_event()
    assert_silent(shown(caught.value))


@pytest.mark.parametrize("request_", [*CARRIERS, SetConfig(SENTINEL)], ids=lambda request: request.type)
def test_a_refusal_that_quotes_the_secret(request_):
    for quoted in (SENTINEL, f'TOKEN = "{SENTINEL}"', repr(SENTINEL), json.dumps({"a": json.dumps(SENTINEL)})):
        error = RequestFailed(request_, f"cannot store {quoted}: disk full")
        assert "disk full" in str(error)
        assert_silent([*shown(error), *shown(copy.copy(error))])
        reply = redact_reply(Ack(request_.type, False, f"cannot store {quoted}: disk full"), [Ping(), request_])
        assert "disk full" in reply.error
        assert_silent(faces(reply))


def test_a_refusal_that_quotes_a_key_as_go_does():
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ\nab12\n-----END PRIVATE KEY-----\n"
    error = RequestFailed(InjectSecret("KEY", key), f"""bad key: {key.encode("unicode_escape").decode()}""")
    assert error.error == "bad key: [redacted]"


def test_an_unexpected_reply():
    for reply in (Ack(SENTINEL, True), Ack("inject_secret", False, SENTINEL), Health(SENTINEL)):
        # It is asked for nothing; for something else; it has been asked for it before.
        for before, waiting in (([], []), ([], CARRIERS[1:]), (CARRIERS[:1], [Ping()])):
            connection = Connection(Role.HOST)
            for request in (*before, *waiting):
                connection.send(request)
            for request in before:
                connection.receive_data(encode(Ack(request.type, True)))
                connection.next_event()
            connection.receive_data(encode(reply))
            with pytest.raises(UnexpectedReply) as caught:
                connection.next_event()
            assert SENTINEL not in str(caught.value)
            if waiting == CARRIERS[1:]:
                assert_silent(shown(caught.value))


def test_a_message_of_a_type_that_the_guest_made_up():
    line = f'{{"type":"{SENTINEL}","payload":{"[" * 200}{"]" * 200}}}'.encode()
    with pytest.raises(RemoteProtocolError) as caught:
        decode(line, sender=Role.GUEST)
    assert_silent(shown(caught.value))


def test_a_step_that_quotes_the_secret_of_another():
    plan = ProvisionPlan([Mount("share0", "/a", "9p")], [CARRIERS[0]])
    with simulated_guest(faults=[f"fail:no {SENTINEL}@mount"]) as guest:
        told = []
        with stereos_proto_io.blocking.connect(guest.address) as client:
            report = client.provision(plan, on_step=told.append)
        for step in (*told, *report.steps):
            assert_silent([*faces(step), *(shown(step.error) if step.error else ())])
    assert report.steps[0].error.error == "no [redacted]"


@pytest.mark.parametrize("place", ["_views", "_texts", "_parts_of"])
def test_a_ctrl_c_while_a_text_is_redacted(place, monkeypatch):
    monkeypatch.setattr(_redact, place, interrupt)
    ack = Ack("inject_secret", False, f"no {SENTINEL}")
    for job in (
        lambda: RequestFailed(CARRIERS[0], ack.error),
        lambda: redact_reply(ack, CARRIERS),
        lambda: Redactor(CARRIERS).redact(ack.error),
        lambda: Redactor(CARRIERS).redact_message(ack),
    ):
        with pytest.raises(KeyboardInterrupt) as caught:
            job()
        assert_silent(shown(caught.value))


def a_conversation(request):
    session = HostSession()
    call = session.request(request)
    while data := session.data_to_send():
        session.data_sent(len(data))
    session.receive_data(REFUSALS[request.type])
    list(session.events())
    call.result()


def a_guest(line):
    session = GuestSession()
    session.receive_data(line)
    list(session.events())


LINE = encode(CARRIERS[0])
REFUSALS = {request.type: encode(Ack(request.type, False, f"no {SENTINEL}")) for request in CARRIERS}
JCARD = f'[secrets]\nA = "{SENTINEL}"\nB = "${{B}}"\n[agents.env]\nC = "${{B}}"\n'
JOBS = {
    **{f"encode {request.type}": partial(encode, request) for request in CARRIERS},
    **{f"send {request.type}": lambda request=request: Connection(Role.HOST).send(request) for request in CARRIERS},
    **{f"ask {request.type}": partial(a_conversation, request) for request in CARRIERS},
    "decode": partial(decode, LINE, sender=Role.HOST),
    "decode tolerantly": partial(decode, LINE.replace(b'"name"', b'"NAME"'), sender=Role.HOST),
    "decode what is wrong": partial(decode, UNREADABLE[1].encode(), sender=Role.HOST),
    "a guest": partial(a_guest, LINE),
    "a jcard": partial(load_jcard, JCARD, env={"B": SENTINEL}),
}


def has_begun(error):
    """Whether it passed more than the first line of one function, which knows what its caller gave it."""
    ours = [
        step for step in traceback.walk_tb(error.__traceback__) if "/src/stereos_proto" in step[0].f_code.co_filename
    ]
    return len(ours) > 1 or any(line != frame.f_code.co_firstlineno for frame, line in ours)


@bytecode_of_3_11
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_ctrl_c_anywhere(job):
    for number in itertools.count(1):
        before = sys.gettrace()
        sys.settrace(Interrupt(number))
        try:
            job()
        except KeyboardInterrupt as exc:
            sys.settrace(before)
            assert_silent(shown(exc) if has_begun(exc) else ())
            continue
        except StereosError:
            pass
        finally:
            sys.settrace(before)
        break
    assert number > 10


@pytest.mark.parametrize("request_", CARRIERS, ids=lambda request: request.type)
def test_what_pickle_says(request_):
    session, connection = HostSession("the guest"), Connection(Role.HOST)
    session.request(request_)
    connection.send(request_)
    for holder in (request_, [request_], session, connection):
        with pytest.raises(TypeError) as caught:
            pickle.dumps(holder)
        assert_silent(shown(caught.value))


@pytest.mark.parametrize("request_", CARRIERS, ids=lambda request: request.type)
def test_what_pickle_says_of_an_error(request_):
    """It crosses to another process without the secret."""
    for error in (
        RequestFailed(request_, f"no room for {SENTINEL}"),
        OutcomeUnknown("gone", request=request_, unanswered=(request_,)),
        ConnectionLost("gone", unanswered=(request_,)),
        RequestTimeout("late", request=request_, sent=True),
    ):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert SENTINEL.encode() not in pickle.dumps(error, protocol)
        assert_silent(shown(pickle.loads(pickle.dumps(error))))


# ------------------------------------------------------------------------------------------------- session


def ends(session):
    yield session.receive_eof
    yield lambda: session.receive_data(b'{"type":')
    yield lambda: session.receive_data(b"garbage\n")
    yield lambda: session.receive_data(encode(Pong()))
    yield lambda: session.read_failed(ConnectionResetError(104, "Connection reset by peer"))
    yield lambda: session.write_failed(BrokenPipeError(32, "Broken pipe"))
    yield session.abort
    yield session.close


@pytest.mark.parametrize("way", range(8))
@pytest.mark.parametrize("written", [0, 10, 100_000])
def test_a_session_that_ends(way, written):
    session = HostSession("the guest")
    calls = [session.request(request) for request in CARRIERS]
    cancelled = session.request(InjectSecret("LATE", SENTINEL))
    data = session.data_to_send()
    session.data_sent(min(len(data), written))
    assert_silent([*faces(session), *faces(calls)])
    session.cancel(cancelled)
    assert_silent(shown(cancelled.outcome))
    [*ends(session)][way]()
    assert_silent([face for event in session.events() for face in faces(event)])
    session.receive_eof()
    assert_silent([face for event in session.events() for face in faces(event)])
    session.close()
    for call in calls:
        assert isinstance(call.outcome, StereosError)
        assert_silent([*faces(call), *shown(call.outcome)])
        with pytest.raises(StereosError) as caught:
            call.result()
        assert_silent(shown(caught.value))
    assert_silent(shown(session.ended))
    with pytest.raises(ConnectionLost) as refused:
        session.request(CARRIERS[0])
    assert_silent(shown(refused.value))


# ------------------------------------------------------------------------------------------------- drivers

#: What the guest at the other end does with the first line that it gets.
GUESTS = {
    "closes": b"",
    "answers garbage": b"garbage\n",
    "answers garbage with the secret in it": f"garbage {SENTINEL}\n".encode(),
    "answers too much of the secret": SENTINEL.encode() * 100_000,
    "refuses": encode(Ack("inject_secret", False, f"no room for {SENTINEL}")),
    "refuses without reading": encode(Ack("", False, f"malformed JSON: {SENTINEL}")),
    "answers something else": encode(Pong()),
    "answers half a line": b'{"type":"ack","payl',
    "answers too much": b"x" * 1_100_000,
}


@contextlib.contextmanager
def hostile_guest(answer):
    ours, theirs = socket.socketpair()

    def run():
        with theirs, contextlib.suppress(OSError):
            theirs.recv(65536)
            theirs.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    finally:
        thread.join()


def through_blocking(stream, request):
    with stereos_proto_io.blocking.Client.attach(stream, timeout=60) as client:
        assert_silent(faces(client))
        client.request(request)


def through_asyncio(stream, request):
    async def main():
        # Debugging, every callback counts as slow, and is logged with its arguments.
        asyncio.get_running_loop().slow_callback_duration = 0
        async with await stereos_proto_io.asyncio.Client.attach(stream) as client:
            assert_silent(faces(client))
            task = asyncio.create_task(client.request(request))
            await asyncio.sleep(0)
            assert_silent(faces(task))
            trace = io.StringIO()
            task.print_stack(file=trace)
            assert_silent([trace.getvalue()])
            await task

    asyncio.run(main(), debug=True)


def through_trio(stream, request):
    async def main():
        async with stereos_proto_io.trio.Client.attach(stream) as client:
            assert_silent(faces(client))
            await client.request(request)

    trio.run(main)


DRIVERS = pytest.mark.parametrize("ask", [through_blocking, through_asyncio, through_trio])


@DRIVERS
@pytest.mark.parametrize("answer", [*GUESTS])
def test_each_driver(ask, answer):
    with hostile_guest(GUESTS[answer]) as stream, pytest.raises(StereosError) as caught:
        ask(stream, CARRIERS[0])
    assert_silent(shown(caught.value))
    formatted = traceback.TracebackException.from_exception(caught.value, capture_locals=False)
    assert_silent(formatted.format(chain=True))


class Broken(socket.socket):
    """A socket that breaks after `left` bytes."""

    left = 0

    def send(self, data):
        if self.left:
            size, self.left = super().send(data[: self.left]), 0
            return size
        # The guest has gone, so there is an end to be read as well.
        self.peer.close()
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    # What asyncio writes the rest with from Python 3.12 on.
    def sendmsg(self, _buffers):
        # The guest has gone, so there is an end to be read as well.
        self.peer.close()
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def recv(self, _size):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


@DRIVERS
@pytest.mark.parametrize("request_", CARRIERS, ids=lambda request: request.type)
@pytest.mark.parametrize("left", [0, 10])
def test_each_driver_when_writing_fails(ask, request_, left):
    """In a frame that holds what was to be written."""
    ours, theirs = socket.socketpair()
    stream = Broken(fileno=ours.detach())
    stream.left = left
    stream.peer = theirs
    with theirs, pytest.raises(ConnectionLost) as caught:
        ask(stream, request_)
    assert not left or isinstance(caught.value.__cause__, OSError)
    assert_silent(shown(caught.value))


class Faulty(socket.socket):
    """A socket with a fault of its own, which is no OSError."""

    def send(self, data):
        raise ZeroDivisionError(len(data))

    sendmsg = send


@pytest.mark.parametrize("ask", [through_blocking, through_trio])
@pytest.mark.parametrize("request_", CARRIERS, ids=lambda request: request.type)
def test_each_driver_when_writing_has_a_fault(ask, request_):
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(ZeroDivisionError) as caught:
        ask(Faulty(fileno=ours.detach()), request_)
    assert_silent(shown(caught.value))


@pytest.mark.parametrize("answer", [*GUESTS])
def test_a_task_that_nobody_awaits(answer):
    """asyncio tells of its error, in its own words, once it is gone."""
    told = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        async with await stereos_proto_io.asyncio.Client.attach(stream) as client:
            asking = asyncio.create_task(client.request(CARRIERS[0]))
            await asyncio.wait([asking])

    with hostile_guest(GUESTS[answer]) as stream:
        asyncio.run(main(), debug=True)
    gc.collect()
    assert len(told) == 1
    assert_silent([repr(told), *shown(told[0]["exception"])])


@DRIVERS
@pytest.mark.parametrize("request_", UNSENDABLE[:4] + UNSENDABLE[7:12], ids=lambda request: request.type)
def test_each_driver_with_what_cannot_be_sent(ask, request_):
    with hostile_guest(b"") as stream, pytest.raises(LocalProtocolError) as caught:
        ask(stream, request_)
    assert_silent(shown(caught.value))


# --------------------------------------------------------------------------------------------------- guest


@pytest.mark.parametrize("request_", CARRIERS, ids=lambda request: request.type)
def test_the_guest(request_):
    simulator = GuestSimulator()
    session = GuestSession()
    session.receive_data(encode(request_))
    pending = session.next_event()
    assert pending.request == request_
    assert_silent([*faces(pending), *faces(session)])
    session.reply(pending, simulator.handle(pending.request))
    assert_silent([*faces(simulator), *faces(simulator.requests), *faces(dict(simulator.secrets)), *faces(session)])


@pytest.mark.parametrize("line", UNREADABLE)
def test_what_the_guest_answers_to_what_it_cannot_read(line):
    session = GuestSession()
    session.receive_data(line.encode() + b"\n")
    event = session.next_event()
    answer = session.data_to_send()
    assert b'"ok":false' in answer
    assert_silent([answer.decode(), *faces(session), *faces(event)])


def test_a_handler_that_fails():
    """What is logged then is the handler's own; the host is told the class alone."""
    with simulated_guest() as guest:
        original, guest.simulator.handle = guest.simulator.handle, lambda _request: 1 / 0
        with stereos_proto_io.blocking.connect(guest.address) as client, pytest.raises(RequestFailed) as caught:
            client.inject_secret("TOKEN", SENTINEL)
        guest.simulator.handle = original
    assert_silent([*shown(caught.value), *faces(guest), *faces(guest.server)])


@pytest.mark.parametrize("kind", KINDS)
def test_each_server(kind, caplog):
    """A handler that fails, and lines that cannot be read: what the host is told, and what is logged."""

    def handle(request):
        raise OSError(f"no room for {request}")

    with running(kind, None, handle) as guest, Host(guest.address) as host:
        host.send(*CARRIERS, *(line.encode() + b"\n" for line in UNREADABLE))
        host.end()
        told = host.rest()
        assert_silent([told.decode(), *faces(guest.server)])
    assert told.count(b"\n") == len(CARRIERS) + len(UNREADABLE)
    assert len(caplog.records) >= len(CARRIERS)


def test_a_provisioned_guest():
    plan = load_jcard(f'[secrets]\nTOKEN = "{SENTINEL}"\nBAD = "{SENTINEL}"\n', env={})
    with simulated_guest(faults=["fail:no@inject_secret#2"]) as guest:
        with stereos_proto_io.blocking.connect(guest.address) as client:
            report = client.provision(plan)
            assert client.ping() == Pong()
        assert guest.simulator.secrets["TOKEN"].value == SENTINEL
        assert_silent([*faces(report), *faces(guest), *faces(guest.simulator.secrets["TOKEN"])])
        with pytest.raises(RequestFailed) as caught:
            report.raise_for_failure()
        assert_silent(shown(caught.value))


def test_the_sentinel_would_be_found():
    """The places that are searched do show a value that is not hidden."""
    assert SENTINEL in repr(InjectSSHKey("admin", SENTINEL))
    error = ConnectionLost("x", unanswered=[InjectSSHKey("admin", SENTINEL)])
    with pytest.raises(AssertionError):
        assert_silent(shown(error))
    try:
        decode(f'{{"type":"{SENTINEL}","payload":0}}'.encode(), sender=Role.HOST)
        Connection(Role.HOST).send(InjectSSHKey("admin", f"{SENTINEL}\n{SENTINEL}"))
    except LocalProtocolError as exc:
        with pytest.raises(AssertionError):
            assert_silent(shown(exc))
    assert Ping() == Ping()
