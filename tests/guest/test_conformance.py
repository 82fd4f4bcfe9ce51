"""The conformance suite: good guests pass it, and each case fails against a guest with just that fault."""

import asyncio
import json
import re
import socket
import struct
import threading
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from guest_harness import PATIENCE, running
from stereos_proto import MAX_LINE_SIZE, NEED_DATA, AgentStatus, GuestSession, PendingRequest, SetConfig
from stereos_proto_io import TCP, Dial, HybridVsock, UnixSocket, VirtioSerial
from stereos_proto_io.conformance import CASES, Case, Need, Outcome, Report, Result, _guest_case, run
from stereos_proto_io.guest import (
    FORK_TYPES,
    OLD_TYPES,
    REFERENCE_TYPES,
    GuestSimulator,
    _blocking_transport,
    _faulty_session,
)
from stereos_proto_io.guest import asyncio as asyncio_guest
from stereos_proto_io.guest.effects import FolderEffects

EVERYTHING = {"allow_effects": True, "allow_shutdown": True}
BY_NAME = {case.name: case for case in CASES}


def names(report, outcome):
    return [result.name for result in report.results if result.outcome is outcome]


# --------------------------------------------------------------------------------------------- good guests


@pytest.mark.parametrize("kind", ["blocking", "asyncio", "trio"])
@pytest.mark.parametrize(
    ("address", "skipped"),
    [
        (None, 0),
        (UnixSocket("guest"), 0),
        (HybridVsock("muxer"), 2),
        (VirtioSerial("port"), 5),
    ],
    ids=str,
)
def test_every_server_conforms_on_every_transport(kind, address, skipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agents = [AgentStatus("a", running=True, session="s"), AgentStatus("b", running=False, error="e")]
    with running(kind, address, GuestSimulator(agents=agents)) as guest:
        report = run(guest.address, **EVERYTHING)
    assert report.ok, report.as_table()
    assert len(names(report, Outcome.SKIPPED)) == skipped
    assert len(names(report, Outcome.PASSED)) == len(CASES) - skipped


@pytest.mark.parametrize(
    "address", [TCP("127.0.0.1", 0), UnixSocket("g"), HybridVsock("m"), VirtioSerial("s")], ids=str
)
def test_uvloop_conforms_and_ends(address, tmp_path, monkeypatch):
    uvloop = pytest.importorskip("uvloop")
    monkeypatch.chdir(tmp_path)

    async def main():
        async with asyncio_guest.serve(address, GuestSimulator()) as guest:
            return await asyncio.to_thread(run, guest.address, **EVERYTHING)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(main())
    assert report.ok, report.as_table()


@pytest.mark.parametrize("status", [0, 32])
def test_a_guest_that_writes_files_conforms(status, tmp_path):
    effects = FolderEffects(tmp_path, run=lambda _command: status)
    (tmp_path / "home" / "admin").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    with running("blocking", None, GuestSimulator(effects=effects)) as guest:
        report = run(guest.address, **EVERYTHING)
    assert report.ok, report.as_table()


def test_agents_of_an_old_guest_need_no_restarts():
    types = REFERENCE_TYPES - {"set_config", "inject_ssh_key"}
    simulator = GuestSimulator(types=types, agents=[AgentStatus("a", running=True)], faults=["omit:restarts"])
    with running("blocking", None, simulator) as guest:
        report = run(guest.address, **EVERYTHING)
    assert report.ok, report.as_table()


@pytest.mark.parametrize(("age", "table"), [("today", "[[agents]]"), ("older", "[agent]")])
def test_a_guest_with_agents_of_its_config_conforms(age, table):
    simulator = GuestSimulator(age=age, poll_interval=0.001)
    simulator.handle(SetConfig(f'{table}\nharness = "custom"\n'))
    with running("blocking", None, simulator) as guest:
        report = run(guest.address)
    assert simulator.agents
    assert report.ok, report.as_table()


def test_notifications_before_each_reply_conform(monkeypatch):
    notices = says_first(NOTICE[:-1] + b'\n{"type":"lifecycle","payload":{"state":"x","message":"y"}}')
    monkeypatch.setattr(_faulty_session, "GuestSession", type("Session", (Tampered,), {"mutant": notices}))
    with running("blocking", None, GuestSimulator()) as guest:
        report = run(guest.address, **EVERYTHING)
    assert report.ok, report.as_table()


@pytest.mark.parametrize(("got", "want"), [(1, True), (1.0, True), (0, False), (1.0, 1), ("1", 1), (None, 0)])
def test_equal_to_python_is_not_the_same_on_the_wire(got, want):
    for wrap in (lambda x: x, lambda x: [x], lambda x: {"a": {"b": x}}):
        assert _guest_case.same(wrap(want), wrap(want))
        assert not _guest_case.same(wrap(got), wrap(want))


@pytest.mark.parametrize(("got", "want"), [([1], [1, 1]), ({"a": 1}, {}), ({"a": 1}, {"b": 1}), ([], {})])
def test_of_another_shape_is_not_the_same(got, want):
    assert not _guest_case.same(got, want)
    assert not _guest_case.same(want, got)


def test_a_fork_conforms():
    with running("blocking", None, GuestSimulator(types=FORK_TYPES)) as guest:
        assert run(guest.address, **EVERYTHING).ok


def test_an_old_guest_conforms_as_far_as_it_goes():
    with running("blocking", None, GuestSimulator(types=OLD_TYPES)) as guest:
        report = run(guest.address, **EVERYTHING)
    assert report.ok, report.as_table()
    reasons = {result.reason for result in report.results if result.outcome is Outcome.SKIPPED}
    assert reasons == {f"the guest does not know {type_}" for type_ in ("get_health", "set_config", "inject_ssh_key")}


def test_nothing_changes_without_leave():
    simulator = GuestSimulator()
    with running("blocking", None, simulator) as guest:
        report = run(guest.address)
        assert report.ok
        assert not guest.server.join(0)
    assert (simulator.secrets, simulator.ssh_keys, simulator.config) == ({}, {}, None)
    assert (simulator.mounts, simulator.shutdown_reason) == ((), None)
    skipped = {result.reason for result in report.results if result.outcome is Outcome.SKIPPED}
    assert skipped == {
        "not allowed without allow_effects (--allow-effects)",
        "not allowed without allow_shutdown (--allow-shutdown)",
    }


def test_a_dial_is_an_address_too():
    with running("blocking", None, GuestSimulator()) as guest:
        place = (guest.address.host, guest.address.port)
        assert run(Dial(lambda: socket.create_connection(place), "mine"), **EVERYTHING).ok


# ---------------------------------------------------------------------------------------------- bad guests


@attrs.define
class Mutant:
    """One fault of a guest: lines that it reads as others, replies that it garbles, or worse."""

    read: object = None
    say: object = None
    faults: tuple = ()
    session: object = None
    chunk: int = 65536
    #: What the reason has to say, a regular expression.
    reason: str = ""
    #: How long each wait of the case may take. It is short where the suite waits in vain.
    timeout: float = 0.3


def reads(old, new):
    """A guest that reads the lines `old` as `new`: whole lines, or what stands in them."""
    return Mutant(read=lambda line: new if line == old else line)


def reads_in(old, new):
    return Mutant(read=lambda line: line.replace(old, new))


def says_in(old, new):
    return Mutant(say=lambda line: line.replace(old, new))


def says_first(line):
    """A guest that says `line` before each reply."""
    return Mutant(say=lambda reply: line + b"\n" + reply)


def says_nothing_of(part):
    return Mutant(say=lambda line: b"" if part in line else line)


def with_faults(*faults):
    return Mutant(faults=faults)


def because(reason, mutant, *, in_vain=False):
    """The mutant, for which the report has to say `reason`, after the suite has waited `in_vain`."""
    return attrs.evolve(mutant, reason=re.escape(reason), timeout=mutant.timeout if in_vain else PATIENCE)


class Tampered(GuestSession):
    """A session that hears and says what its mutant makes of it."""

    mutant: Mutant
    alive: list

    def __init__(self, **options):
        self._heard = b""
        super().__init__(**options)

    def receive_data(self, data):
        if self.mutant.read is None:
            super().receive_data(data)
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            super().receive_data(self.mutant.read(line) + b"\n")

    def receive_eof(self):
        if self._heard:
            super().receive_data(self.mutant.read(self._heard))
        super().receive_eof()

    def _line(self, pending, reply):
        line = super()._line(pending, reply)
        return self.mutant.say(line) if self.mutant.say else line


class HalfADeafOne(Tampered):
    """Forgets a last line that has no newline."""

    def receive_data(self, data):
        whole, newline, self._rest = data.rpartition(b"\n")
        super().receive_data(whole + newline)


class ClosesAtHalfClose(Tampered):
    """Is slow to answer, and takes a half-close for the end."""

    def data_to_send(self):
        return b""

    def receive_eof(self):
        self.close()


class OneAtATime(Tampered):
    """Serves a second host when the first has gone."""

    def __init__(self, **options):
        super().__init__(**options)
        self.alive.append(self)

    def next_event(self):
        first = next(session for session in self.alive if not session.ended or session is self)
        return super().next_event() if first is self else NEED_DATA


class TakesChunksForLines(Tampered):
    """Ends a line where a read ends."""

    def receive_data(self, data):
        super().receive_data(data if data.endswith(b"\n") else data + b"\n")


class GrowsYounger(Tampered):
    """Says less of its age each time."""

    def __init__(self, **options):
        super().__init__(**options)
        self._age = 3

    def _line(self, pending, reply):
        self._age -= 1
        return super()._line(pending, reply).replace(b'"uptime_seconds":0', b'"uptime_seconds":%d' % self._age)


class Stays(Tampered):
    """Acks a shutdown, and goes on."""

    def _stop(self):
        self._shut_down = False


def reversed_keys(line):
    message = json.loads(line)
    return json.dumps({key: message[key] for key in reversed(message)}).encode() + b"\n"


def reversed_payload(line):
    message = json.loads(line)
    payload = message.get("payload", {})
    return json.dumps({**message, "payload": {key: payload[key] for key in reversed(payload)}}).encode() + b"\n"


def as_plain_json(line):
    """A line with members that stand more than once, as a plain JSON library reads it."""
    try:
        return json.dumps(json.loads(line)).encode() if line.count(b":") > 1 else line
    except ValueError:
        return line


PING = b'{"type":"ping"}'
PLAIN_JSON = Mutant(read=as_plain_json)
LONG = MAX_LINE_SIZE - 1

MUTANTS = {
    "A request of a made-up type is an echo that every guest answers.": [
        because("whose type no guest knows, after 0 replies", says_nothing_of(b"unknown message type"), in_vain=True),
        with_faults("reset#1"),
        with_faults("stall"),
        because("it sent an empty line", with_faults("blank")),
        says_in(b'"reply_to":"conformance:', b'"reply_to":"'),
        Mutant(say=lambda line: b'{"type":"pong"}\n' + line),
    ],
    "An empty line is ignored.": [reads(b"", b"x"), reads(b"\r", b"x"), with_faults("blank")],
    "One trailing carriage return is stripped.": [Mutant(read=lambda line: b"x" if line[-1:] == b"\r" else line)],
    "A line of blanks only is malformed.": [
        Mutant(read=lambda line: line.strip(b" ")),
        Mutant(read=lambda line: line.strip(b"\t")),
        reads(b"\r\r", b"\r"),
    ],
    "Only a newline separates lines.": [
        reads_in(b"}\r{", b"}\n{"),
        reads_in(b"}\v{", b"}\n{"),
        reads_in("}\u2028{".encode(), b"}\n{"),
    ],
    "A line may arrive in pieces of any size.": [Mutant(session=TakesChunksForLines, chunk=1)],
    "A line may have 1,048,575 bytes and its newline.": [
        Mutant(read=lambda line: line + b"x" * (len(line) == LONG)),
        Mutant(read=lambda line: line + b"x" * (len(line) == LONG and line[-1:] == b"\r")),
    ],
    "A longer line closes the connection with no ack.": [
        Mutant(read=lambda line: b"{}" if len(line) > LONG else line),
        Mutant(read=lambda line: b"{}" if len(line) > LONG and line[-1:] == b"\r" else line),
    ],
    "Lines before one that is too long are answered.": [with_faults("drop@ping#2")],
    "An unterminated last line is a line.": [
        Mutant(session=HalfADeafOne),
        because("not 1", Mutant(read=lambda line: b"" if line == b'{"type":"' else line)),
        says_in(b"malformed JSON: ", b"malformed: "),
        because("a line of 1,048,575 bytes", Mutant(read=lambda line: b"{}" if len(line) == LONG else line)),
    ],
    "After a half-close the outstanding replies still arrive.": [
        Mutant(session=ClosesAtHalfClose),
        with_faults("close#3"),
    ],
    "`ping` is answered by `pong`, which has no payload.": [
        with_faults("wrong-type@ping"),
        says_in(b'{"type":"pong"}', b'{"type":"pong","payload":{}}'),
        with_faults("half@ping"),
        with_faults("stall@ping"),
        with_faults("garbage@ping"),
        with_faults("over-long@ping"),
        # What `json.loads` reads, and a host need not (§4).
        says_in(b'{"type":"pong"}', b'\xef\xbb\xbf{"type":"pong"}'),
        says_in(b'{"type":"pong"}', b'{"type":"pong","payload":{},"payload":NaN}'),
        # What may stand before any reply, and which a client reads too.
        because("lifecycle with a payload that does not fit", says_first(b'{"type":"lifecycle","payload":5}')),
        because("payload.state must be a string", says_first(b'{"type":"lifecycle","payload":{"state":5}}')),
        because("the payload of a lifecycle is null, no object", says_first(b'{"type":"lifecycle"}')),
        because("has no `state`", says_first(b'{"type":"lifecycle","payload":{}}')),
        because("has an empty `message`", says_first(b'{"type":"lifecycle","payload":{"state":"x","message":""}}')),
        because("stands more than once", says_in(b'"pong"', b'"ack","type":"pong"')),
    ],
    "`get_health` is answered by `health`.": [
        with_faults("wrong-type@get_health"),
        with_faults("omit:state@get_health"),
        with_faults("omit:uptime_seconds@get_health"),
        says_in(b'"uptime_seconds":0', b'"uptime_seconds":0.5'),
        with_faults("fail:no@get_health"),
        because("`uptime_seconds` was -1", says_in(b'"uptime_seconds":0', b'"uptime_seconds":-1')),
        because("payload.uptime_seconds must be", says_in(b'"uptime_seconds":0', b'"uptime_seconds":%d' % 2**63)),
        because("`uptime_seconds` was 2, then 0", Mutant(session=GrowsYounger)),
    ],
    "An agent has a name, and says whether it runs.": [
        says_in(b'"running":true', b'"running":1'),
        with_faults("omit:name@get_health"),
        with_faults("omit:running@get_health"),
        says_in(b'"restarts":0', b'"restarts":"0"'),
        says_in(b'"agents":[', b'"agents":[],"more":['),
        says_in(b'"agents":[', b'"agents":[null,'),
        says_in(b'"agents":[', b'"agents":["name running",'),
        because("payload.agents[0].restarts must be", says_in(b'"restarts":0', b'"restarts":%d' % 2**70)),
        because("an agent has no `restarts`", with_faults("omit:restarts@get_health")),
        because("an agent has an empty `session`", says_in(b'"restarts"', b'"session":"","restarts"')),
        because("an agent has an empty `error`", says_in(b'"restarts":0', b'"restarts":0,"error":""')),
        because("an agent has null as its `session`", says_in(b'"restarts"', b'"session":null,"restarts"')),
        because("health has an empty `agents`", says_in(b'"agents":[', b'"agents":[],"more":[')),
    ],
    "Keys are emitted in the order of the table.": [
        Mutant(say=reversed_keys),
        Mutant(say=reversed_payload),
        because(
            "keys stand as running, name, restarts", says_in(b'"name":"a","running":true', b'"running":true,"name":"a"')
        ),
        Mutant(say=lambda line: b"null\n" if b"conformance-order" in line else line),
        Mutant(say=lambda line: b"5\n" if b"health" in line else line),
    ],
    "Message types are case-sensitive.": [reads_in(b"PING", b"ping"), reads_in(b"Get_Health", b"get_health")],
    "Lines are compact, and end with a newline alone.": [
        because("blanks between", Mutant(say=lambda line: json.dumps(json.loads(line)).encode() + b"\n")),
        because("before its end", Mutant(say=lambda line: line[:-1] + b"\r\n")),
        says_in(b'"agents":[', b'"agents": ['),
    ],
    "Agents are sorted by name, and no two have one name.": [
        because('["b", "a"]', says_in(b'"agents":[', b'"agents":[{"name":"b","running":true,"restarts":0},')),
        because('["a", "a"]', says_in(b'"agents":[', b'"agents":[{"name":"a","running":true,"restarts":0},')),
    ],
    "Each line gets one reply, in order.": [
        with_faults("swap#5"),
        with_faults("drop@ping#40"),
        with_faults("duplicate@ping#40"),
    ],
    "Replies of every kind come in the order of the lines.": [
        with_faults("swap#2"),
        reads(b"nonsense", b"{}"),
        because("was answered by 59 replies, not 60", with_faults("drop@inject_secret#10")),
    ],
    "Connections run in parallel.": [
        Mutant(session=OneAtATime),
        with_faults("reset#2"),
        with_faults("hang-up#2"),
        with_faults("reset#9"),
        because("one of 10 connections was answered", says_in(b'"conformance-3"', b'"conformance-4"')),
    ],
    "An unknown type is refused by its name.": [
        says_in(b"unknown message type", b"unknown type"),
        Mutant(say=lambda line: line.replace(b'"a<b>&c"', b'"a"')),
        reads_in(b'"ping "', b'"ping"'),
    ],
    "Types that a guest sends are unknown to it.": [
        reads_in(b'"pong"', b'"ping"'),
        Mutant(read=lambda line: b"" if b'"lifecycle"' in line else line),
        Mutant(read=lambda line: b"" if b'"reply_to":"x"' in line else line),
        reads(b'{"type":"health"}', b'{"type":"get_health"}'),
    ],
    'A type that is missing, null or empty is the unknown type "".': [
        reads(b"{}", b""),
        reads(b"null", b"x"),
        reads(b'{"type":null}', b'{"type":1}'),
        reads(b'{"type":""}', b"x"),
    ],
    "A malformed line is refused, and the connection goes on.": [
        reads(b"nonsense", b""),
        reads(b"nonsense", b"x" * MAX_LINE_SIZE),
        reads(b'{"type":"ping",}', PING),
        reads(b"{'type':'ping'}", PING),
    ],
    "Arrays, strings, numbers and booleans are malformed.": [
        reads(b"[]", b"{}"),
        reads(b"[" + PING + b"]", PING),
        reads(b'"ping"', PING),
        reads(b"5", b"{}"),
        reads(b"false", b"{}"),
    ],
    "A type that is no string is malformed.": [
        reads(b'{"type":5}', b'{"type":"5"}'),
        reads(b'{"type":["ping"]}', PING),
        reads(b'{"type":{}}', b"{}"),
    ],
    "Unknown members are ignored.": [reads_in(b'"id":7', b'"id":x'), reads_in(b'"more":[1]', b'"mode":[1]')],
    "The last duplicate member wins.": [
        reads(b'{"type":"x","type":"ping"}', b'{"type":"x"}'),
        reads_in(b'"name":"a/b","name":""', b'"name":"a/b"'),
    ],
    "A later null leaves what stands before it.": [
        because('not {"type": "pong"}', reads(b'{"type":"ping","type":null}', b'{"type":null}')),
        because("secret name cannot be empty", reads_in(b'"name":"a/b","name":null', b'"name":null')),
        reads_in(b'"n\\u0061me":null', b'"name":""'),
        because('not {"type": "pong"}', PLAIN_JSON),
    ],
    "A wrong type is refused, also when a good value follows.": [
        because("not by a refusal", reads(b'{"type":5,"type":"ping"}', PING)),
        reads_in(b'"name":0,"name":""', b'"name":""'),
        reads_in(b'"mode":"x","mode":1', b'"mode":1'),
        reads_in(b'"mode":4294967296,"mode":1', b'"mode":1'),
        because("not by a refusal", PLAIN_JSON),
    ],
    "Of several payloads only the last one is looked at.": [
        because("invalid secret name", reads_in(b'{"name":"a/b"},"payload":{}', b'{"name":"a/b"}')),
        reads_in(b'"payload":5,"payload":null', b'"payload":5'),
        reads_in(b'"payload":{"name":""},"payload":[]', b'"payload":{"name":""}'),
    ],
    "A missing member is the zero value.": [
        reads(b'{"type":"inject_secret","payload":{}}', b'{"type":"inject_secret"}'),
    ],
    "A member that is null is the zero value.": [
        reads_in(b'"name":null', b'"name":"None"'),
        reads_in(b'"mode":null', b'"mode":"None"'),
        reads_in(b'"read_only":null', b'"read_only":"None"'),
    ],
    "A payload that is null is all zero values.": [
        reads_in(b',"payload":null', b""),
        reads(b'{"type":"mount","payload":null}', b'{"type":"mount"}'),
    ],
    "An absent payload is an error where one is needed.": [
        reads(b'{"type":"%b"}' % type_, b'{"type":"%b","payload":{}}' % type_)
        for type_ in (b"set_config", b"inject_secret", b"inject_ssh_key", b"mount")
    ],
    "A value of the wrong type is refused, not coerced.": [
        reads_in(b'"mode":"384"', b'"mode":384'),
        reads_in(b'"mode":true', b'"mode":1'),
        reads_in(b'"name":0', b'"name":"0"'),
        reads_in(b'"read_only":"true"', b'"read_only":true'),
        reads_in(b'"read_only":0', b'"read_only":false'),
        reads_in(b'"payload":[]', b'"payload":{}'),
        reads_in(b'"fs_type":5', b'"fs_type":"5"'),
    ],
    "A number that is no integer in range is refused.": [
        reads_in(b'"mode":%b' % old, b'"mode":%b' % new)
        for old, new in ((b"-1", b"1"), (b"-0", b"0"), (b"3.0", b"3"), (b"1e2", b"100"), (b"4294967296", b"0"))
    ]
    + [reads_in(b'"mode":4294967295', b'"mode":-1'), reads_in(b'"mode":0}', b'"mode":-1}')],
    "An invalid byte, and a lone surrogate, is U+FFFD.": [
        reads_in(b"\xff", b"?"),
        reads_in(b"\\ud800", b"?"),
        reads_in(b"\xe2\x82", "\ufffd".encode()),
        reads_in(b"\xff", b"\n"),
    ],
    "Arrays and objects may nest 10,000 levels.": [Mutant(read=lambda line: b"x" if line.count(b"[") > 999 else line)],
    "Deeper nesting is malformed.": [Mutant(read=lambda line: PING if line.count(b"[") > 9999 else line)],
    "What is not quite JSON is malformed.": [
        Mutant(read=lambda line: line.removeprefix(b"\xef\xbb\xbf")),
        reads_in(b"NaN", b"0"),
        reads_in(b"Infinity", b"0"),
        reads_in(b":01}", b":1}"),
        reads_in(b" //", b""),
        reads_in(b"pi\tng", b"ping"),
        reads(PING + PING, PING),
        Mutant(read=lambda line: line.replace(b"\xff\xfe", b"").replace(b"\0", b"")),
    ],
    "A user or a key of the wrong type is refused.": [
        reads_in(b'"user":5', b'"user":"5"'),
        reads_in(b'"public_key":5', b'"public_key":"5"'),
    ],
    "`ping` and `get_health` ignore their payload.": [
        reads(b'{"type":"ping","payload":5}', b"x"),
        reads(b'{"type":"get_health","payload":[]}', b"x"),
    ],
    "A secret's name is a simple file name.": [
        says_in(b" (must be a simple filename)", b""),
        says_in(b"cannot be empty", b"is empty"),
        reads_in(b'"a/b"', b'"ab"'),
        reads_in(b'"a..b"', b'"ab"'),
        *(says_in(old, b"?") for old in (rb"\\a", rb"\\v", rb"\\x01", rb"\\x7f", rb"\\u00a0", rb"\\U000e0001")),
        says_in(b'\\"../a\\\\n\\"', b"'../a\\n'"),
    ],
    "A name that no file can have is refused by what the file system says.": [
        because('"ok": true', reads_in(b'"conformance\\u0000"', b'"conformance"')),
        because('"ok": true', reads_in(b'"%b"' % (b"x" * 300), b'"x"')),
        says_in(b"file name too long", b"too long"),
        says_in(b"invalid argument", b"no such file or directory"),
    ],
    "A key needs a user, a text and a known key type.": [
        says_in(b"recognized", b"known"),
        reads_in(b'" ssh-ed25519', b'"ssh-ed25519'),
        reads_in(b"ssh-dss", b"ssh-rsa"),
        says_in(b"user cannot be empty", b"public_key cannot be empty"),
    ],
    "Keys are for users of the guest.": [
        says_in(b"unknown user", b"no user"),
        says_in(b"\\\\x00", b"\\\\u0000"),
        reads_in(b"conformance-nobody", b"admin"),
    ],
    "Every type of key is recognized.": [
        because("invalid SSH public key format", reads_in(b'"%b AAAA"' % key_type, b'"x AAAA"'))
        for key_type in (
            b"ssh-ed25519",
            b"ssh-rsa",
            b"ecdsa-sha2-nistp256",
            b"ecdsa-sha2-nistp384",
            b"ecdsa-sha2-nistp521",
            b"sk-ssh-ed25519@openssh.com",
            b"sk-ecdsa-sha2-nistp256@openssh.com",
        )
    ],
    "A mount is checked in the order of the table.": [
        says_in(b"virtiofs or 9p", b"9p or virtiofs"),
        reads_in(b'"9P"', b'"9p"'),
        reads_in(b'"./x"', b'"/x"'),
        says_in(b"mount tag cannot", b"mount fs_type cannot"),
    ],
    "Nothing is mounted over a system directory.": [
        *(reads_in(b'"/%b"' % name, b'"/opt"') for name in (b"nix", b"etc", b"bin", b"boot", b"dev", b"run")),
        reads_in(b'"/w/../etc/x"', b'"/w"'),
        says_in(b'\\"/etc\\"', b'\\"//etc\\"'),
    ],
    "A path with a NUL is refused last.": [
        because('"ok": true', reads_in(b'"/binx\\u0000"', b'"/binx"')),
        because("unsupported filesystem type", reads_in(b'"virtiofs"', b'"virtio"')),
        because("cannot mount over system directory", reads_in(b'"/runx', b'"/run/x')),
        because("mkdir /y", reads_in(b"//x", b"//y")),
        because("cannot mount over system directory", reads_in(b'"/etc\\u0000"', b'"/etc"')),
        says_in(b"create mount point", b"make mount point"),
    ],
    "The names . and / cannot be stored.": [
        because("invalid secret name", reads_in(b'"name":"."', b'"name":".."')),
        because('"ok": true', reads_in(b'"name":"/"', b'"name":"x"')),
    ],
    "A secret is stored.": [
        with_faults("fail:too large@inject_secret#1"),
        reads_in(b'"value":""', b'"value":5'),
        because("payload.ok must be true or false", says_in(b'"ok":true', b'"ok":1')),
        because("payload.ok must be true or false", says_in(b'"ok":true', b'"ok":1.0')),
        with_faults("fail:disk full@inject_secret"),
        with_faults("fail:no@inject_secret#2"),
    ],
    "A key replaces the keys of a user.": [
        with_faults("fail:no such file@inject_ssh_key#3"),
        with_faults("fail:one line@inject_ssh_key#1"),
    ],
    "A config is stored without being read.": [
        with_faults("fail:bad TOML@set_config#1"),
        with_faults("fail:too large@set_config#2"),
        reads_in(b'"content":5', b'"content":"5"'),
    ],
    "A mount succeeds, or fails with the status of mount(8).": [
        with_faults("fail:no@mount"),
        with_faults("fail:mount conformance at /tmp//conformance/: exit status 32@mount"),
        with_faults("drop@mount"),
        because("virtiofs", with_faults("fail:unsupported@mount#2")),
        because("read_only", with_faults("fail:unsupported@mount#3")),
    ],
    "A shutdown, even with a bad payload, is acked; then the guest goes.": [
        with_faults("fail:busy@shutdown"),
        with_faults("drop@shutdown"),
        reads_in(b'"shutdown","payload":5', b'"shut_down","payload":5'),
        because("it did not end the connection for 0.3 s", Mutant(session=Stays), in_vain=True),
    ],
}


def test_every_case_has_a_mutant():
    assert [*MUTANTS] == [case.name for case in CASES]


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        pytest.param(name, mutant, id=f"{name}{n}")
        for name, mutants in MUTANTS.items()
        for n, mutant in enumerate(mutants)
    ],
)
def test_each_case_finds_its_fault(name, mutant, monkeypatch):
    session = type("Session", (mutant.session or Tampered,), {"mutant": mutant, "alive": []})
    monkeypatch.setattr(_faulty_session, "GuestSession", session)
    monkeypatch.setattr(_blocking_transport, "_CHUNK", mutant.chunk)
    agents = [AgentStatus("a", running=True)]
    simulator = GuestSimulator(agents=agents, clock=lambda: 0.0, faults=mutant.faults)
    with running("blocking", None, simulator) as guest:
        report = run(guest.address, cases=[BY_NAME[name]], timeout=mutant.timeout, **EVERYTHING)
    assert [result.outcome for result in report.results] == [Outcome.FAILED]
    assert report.failed[0].reason
    assert re.search(mutant.reason, report.failed[0].reason)


def test_the_mutants_are_sound_but_for_their_fault(monkeypatch):
    """What tampers with nothing passes: the failures above are the faults', not the tampering's."""
    heard = Mutant(read=lambda line: line, say=lambda line: line)
    monkeypatch.setattr(_faulty_session, "GuestSession", type("Session", (Tampered,), {"mutant": heard}))
    monkeypatch.setattr(_blocking_transport, "_CHUNK", 1000)
    with running("blocking", None, GuestSimulator(agents=[AgentStatus("a", running=True)])) as guest:
        # A mutant hears whole lines only, so it sees the end of one that is too long.
        report = run(guest.address, timeout=PATIENCE, **EVERYTHING)
    assert report.ok, report.as_table()


def test_a_mount_may_fail_with_a_status():
    fault = "fail:mount conformance at /tmp/conformance: exit status 32@mount"
    with running("blocking", None, GuestSimulator(faults=[fault])) as guest:
        case = BY_NAME["A mount succeeds, or fails with the status of mount(8)."]
        assert run(guest.address, cases=[case], allow_effects=True).ok


def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = run(UnixSocket("nobody"))
    assert not report.ok
    assert [result.name for result in report.failed] == [CASES[0].name]
    assert "No such file" in report.failed[0].reason
    reasons = [result.reason for result in report.results if result.reason.startswith("left out")]
    assert {*reasons} == {f"left out, because the first case failed: {report.failed[0].reason}"}
    assert len(reasons) == sum(case.need is Need.NOTHING for case in CASES) - 1


def test_a_serial_port_that_stays_silent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with running("blocking", VirtioSerial("port"), GuestSimulator(faults=["stall"])) as guest:
        report = run(guest.address, cases=CASES[:1], timeout=0.1)
    assert report.failed[0].reason.startswith("cannot connect to serial://port: no answer in time")


def test_a_muxer_without_a_guest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with running("blocking", HybridVsock("muxer", 1), GuestSimulator()):
        report = run(HybridVsock("muxer", 2), cases=CASES[:1])
    assert report.failed[0].reason.endswith(": nobody listens on vsock port 2 of the guest yet")


# ----------------------------------------------------------------------------------------- hostile guests


class Raw:
    """A guest on a TCP port that has one function: it gets the socket of each connection, in a thread of its own."""

    def __init__(self, serve):
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = TCP(*self._listener.getsockname())
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._sockets = []

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_exc):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE)
        self._listener.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _accept(self):
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(PATIENCE)
                self._sockets.append(sock)
                self._threads.append(threading.Thread(target=self._talk, args=[sock], daemon=True))
                self._threads[-1].start()

    def _talk(self, sock):
        with sock, suppress(OSError):
            self._serve(sock)


def floods(data):
    """A guest that sends `data` without end, and reads nothing."""

    def serve(sock):
        while True:
            sock.sendall(data)

    return serve


def answers_each_line(reply):
    """A guest that answers each line by the bytes that `reply(line)` returns, and closes at the end of the stream."""

    def serve(sock):
        with sock.makefile("rb") as lines:
            for line in lines:
                sock.sendall(reply(line))

    return serve


def in_time(work):
    """What `work` returns, which has to be long before the test gives up."""
    done = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert done, "it is still running"
    return done[0]


#: What makes a socket reset its connection when it is closed.
RESET = struct.pack("ii", 1, 0)
NOTICE = b'{"type":"lifecycle","payload":{"state":"ready"}}\n'
DEEP = b"[" * 100_000 + b"]" * 100_000 + b"\n"

#: What a guest does → why it fails a case.
HOSTILE = {
    "no newline": (floods(b"x" * 65536), "it sent a line longer than 1 MiB"),
    "bytes, one at a time": (floods(b"x"), "it sent no reply for 0.3 s"),
    "replies without end": (floods(b"null\n" * 10_000), "it sent more than 10000 replies"),
    "long replies without end": (floods(b'{"type":"' + b"x" * 1_000_000 + b'"}\n'), "it sent more than 16 MiB"),
    "notifications without end": (floods(NOTICE * 1000), "it sent (no reply for 0.3 s|more than 16 MiB)"),
    "deep nesting": (answers_each_line(lambda _: DEEP), "it sent a line that nests too deeply to be read"),
    "a number of many digits": (
        answers_each_line(lambda _: b"1" * 5000 + b"\n"),
        "it sent a line with a number too long to be read",
    ),
    "UTF-16": (answers_each_line(lambda _: '{"type":"pong"}'.encode("utf-16-le") + b"\n"), "it sent a line that is no"),
    "no UTF-8": (answers_each_line(lambda _: b'{"type":"\xff"}\n'), "it sent a line that is no UTF-8"),
    "a reply to a list": (
        answers_each_line(lambda _: b'{"type":"ack","payload":{"reply_to":["x"],"error":{}}}\n'),
        "the guest sent ack with a payload that does not fit: payload.reply_to must be a string",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_guest_fails_and_holds_nobody(kind):
    serve, reason = HOSTILE[kind]
    with Raw(serve) as guest:
        report = in_time(lambda: run(guest.address, cases=CASES[1:3], timeout=0.3))
    assert [result.outcome for result in report.results] == [Outcome.FAILED] * 2
    for result in report.results:
        assert re.match(reason, result.reason)


#: What a guest says to each line → what the report says of it.
SAID = {
    "an empty line": (b"\n", "it sent an empty line"),
    "a carriage return": (b"\r\n", "it sent an empty line"),
    "no JSON": (b"sshd: \x1b[2Jready\n", r"it sent a line that is no JSON: sshd: \x1b[2Jready"),
    "a long line": (b"x" * 5000 + b"\n", "it sent a line that is no JSON: " + "x" * 200 + "…"),
    "no UTF-8": (b'{"type":"\xff"}\n', r'it sent a line that is no UTF-8: {"type":"\xff"}'),
    "no object": (b"5\n", "the guest sent a line that is no message: must be an object, not number: 5"),
    "what another host sent": (
        b'{"type":"inject_secret","payload":{"name":"k","value":"a \\" hunter2\n',
        'it sent a line that is no JSON: {"type":"inject_secret","payload":{"name":"k","value":…',
    ),
    "what another host sent to a fork": (
        b'{"type":"create_sandbox_user","payload":{"password":"hunter2\n',
        'it sent a line that is no JSON: {"type":"create_sandbox_user","payload":…',
    ),
    "what it was sent, in a text": (
        b'{"type":"ack","payload":{"reply_to":5,"error":"{\\"content\\": \\"hunter2\\"}"}}\n',
        (
            "the guest sent ack with a payload that does not fit: payload.reply_to must be a string, not number: "
            '{"type":"ack","payload":{"reply_to":5,"error":"{\\"content\\":…'
        ),
    ),
    "no reply": (b"", 'it sent no reply for 1 s to {"type":"ping"}, after 0 replies'),
    "a notification": (NOTICE, 'it sent no reply for 1 s to {"type":"ping"}, after 0 replies'),
    "too few replies": (
        b'{"type":"pong"}\n',
        r'it sent no reply for 1 s to {"type":"conformance:[0-9a-f]{16}"}, whose type no guest knows, after 1 reply',
    ),
}


@pytest.mark.parametrize("kind", SAID)
def test_a_report_says_what_the_guest_said(kind):
    said, reason = SAID[kind]
    heard = []

    def reply(line):
        heard.append(line)
        return said if len(heard) == 1 else b""

    with Raw(answers_each_line(reply)) as guest:
        report = run(
            guest.address,
            cases=[BY_NAME["`ping` is answered by `pong`, which has no payload."]],
            timeout=1 if "sent no reply" in reason else PATIENCE,
        )
    pattern = re.escape(reason).replace(re.escape("[0-9a-f]{16}"), "[0-9a-f]{16}")
    assert re.fullmatch(pattern, report.failed[0].reason)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda sock: None, "it closed the connection before its reply"),
        (
            lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET),
            "it reset the connection before its reply",
        ),
    ],
)
def test_a_report_says_which_reply_did_not_come_before_the_end(end, said):
    def serve(sock):
        sock.recv(65536)
        sock.sendall(b'{"type":"pong"}\n')
        end(sock)

    case = Case("Two.", "§3", lambda peer: peer.ask(PING, b'{"type":"ping","payload":{}}'))
    with Raw(serve) as guest:
        report = run(guest.address, cases=[case], timeout=PATIENCE)
    assert report.failed[0].reason == f'{said} to {{"type":"ping","payload":{{}}}}, after 1 reply'


def test_requests_are_shown_without_their_secrets():
    case = Case(
        "One.", "§6", lambda peer: peer.ask(b'{"type":"inject_secret","payload":{"name":"k","value":"hunter2"}}')
    )
    with Raw(answers_each_line(lambda _: b"")) as guest:
        report = run(guest.address, cases=[case], timeout=0.1)
    assert "hunter2" not in str(report)
    assert "inject_secret" in str(report)


def test_without_the_echo_the_rest_is_left_out():
    """Each of the others would wait for it, and fail."""
    told = []
    with Raw(answers_each_line(lambda line: b"" if b"conformance:" in line else b'{"type":"pong"}\n')) as guest:
        report = run(guest.address, timeout=0.1, on_result=told.append, **EVERYTHING)
    assert report.count(Outcome.FAILED) == 1
    assert report.count(Outcome.SKIPPED) == len(CASES) - 1
    assert {result.reason for result in report.results[1:]} == {
        f"left out, because the first case failed: {report.failed[0].reason}"
    }
    assert tuple(told) == report.results


def test_a_flood_after_the_half_close_is_bounded():
    """There the replies are not counted by requests: the case reads to the end of the stream."""

    def serve(sock):
        sock.recv(65536)
        floods(b"null\n" * 10_000)(sock)

    case = BY_NAME["After a half-close the outstanding replies still arrive."]
    with Raw(serve) as guest:
        report = in_time(lambda: run(guest.address, cases=[case], timeout=0.3))
    assert report.failed[0].reason == "it sent more than 10000 replies"


# ---------------------------------------------------------------------------- guests that do not go


class Remains:
    """Guests on a TCP port that stay in some way when they are shut down."""

    def __init__(self, *, closes=False, says=b"", silent=False, answers=0):
        self._closes, self._says, self._silent, self._answers = closes, says, silent, answers
        self._simulator = GuestSimulator()
        self._sockets = []
        self._off = False

    def serve(self, sock):
        if self._off and not self._silent:
            self._answers -= 1
            if self._answers < 0:
                return
        self._sockets.append(sock)
        session = GuestSession()
        while not session.ended and (data := sock.recv(65536)):
            if not (self._off and self._silent):
                session.receive_data(data)
                self._answer(sock, session)
        if session.shut_down:
            self._part(sock)

    def _answer(self, sock, session):
        for event in session.events():
            if isinstance(event, PendingRequest):
                session.reply(event, self._simulator.handle(event.request))
        while data := session.data_to_send():
            session.data_sent(sock.send(data))
        self._off = self._off or session.shut_down

    def _part(self, sock):
        for other in tuple(self._sockets):  # a new one may come at once
            if other is not sock and self._says:
                other.sendall(self._says)
            if self._closes:
                with suppress(OSError):
                    other.shutdown(socket.SHUT_RDWR)


SHUTDOWN = BY_NAME["A shutdown, even with a bad payload, is acked; then the guest goes."]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"answers": 1000}, "it did not end another connection for 1 s"),
        ({"says": b'{"type":"pong"}\n'}, "another connection was answered after the shutdown"),
        ({"closes": True, "answers": 1000}, "new connections were still answered 1 s after the shutdown"),
        ({"closes": True, "silent": True}, "it did not end a new connection for 1 s"),
    ],
    ids=str,
)
def test_a_guest_that_stays_after_its_shutdown_fails(options, reason):
    with Raw(Remains(**options).serve) as guest:
        report = in_time(lambda: run(guest.address, cases=[SHUTDOWN], timeout=1, allow_shutdown=True))
    assert [result.reason for result in report.failed] == [reason]


@pytest.mark.parametrize("answers", [0, 3])
def test_a_guest_may_answer_until_its_power_is_off(answers):
    with Raw(Remains(closes=True, answers=answers).serve) as guest:
        report = in_time(lambda: run(guest.address, cases=[SHUTDOWN], timeout=PATIENCE, allow_shutdown=True))
    assert report.ok, report.as_table()


# ------------------------------------------------------------------------------------------- odd replies

#: Replies that are JSON, and no more than that.
ODD = [
    b"null",
    b"5",
    b"[]",
    b'"x"',
    b"{}",
    b'{"type":[]}',
    b'{"type":{},"payload":null}',
    b'{"type":"ack"}',
    b'{"type":"ack","payload":5}',
    b'{"type":"ack","payload":[]}',
    b'{"type":"ack","payload":{"reply_to":{},"ok":[],"error":5}}',
    b'{"type":"ack","payload":{"reply_to":["get_health"],"ok":false,"error":["x"]}}',
    b'{"type":"ack","payload":{"reply_to":"\\ud800","ok":false,"error":"\\ud800\\u001b[2J\\u009b\\u202e\xc2\x9b"}}',
    b'{"type":"health"}',
    b'{"type":"health","payload":{"state":5,"uptime_seconds":1e999}}',
    b'{"type":"health","payload":{"state":"","uptime_seconds":true,"agents":{}}}',
    b'{"type":"health","payload":{"state":"","uptime_seconds":0,"agents":[null]}}',
    b'{"type":"health","payload":{"state":"","uptime_seconds":0,"agents":[[],{"name":{},"running":[]}]}}',
    b"[" * 900 + b"]" * 900,
    b'{"\\ud800":"\\udfff"}',
]


@pytest.mark.parametrize("odd", ODD)
def test_no_reply_ends_the_run(odd):
    """Whatever the guest says in the place of each reply, cases pass or fail, and say why in text that can be shown."""

    def reply(line):
        mark = re.search(rb'"(conformance:[^"]*)"', line)
        return (REFUSAL % (mark[1], mark[1]) if mark else odd) + b"\n"

    with Raw(answers_each_line(reply)) as guest:
        report = in_time(lambda: run(guest.address, timeout=0.3, **EVERYTHING))
    assert len(report.failed) > len(CASES) / 2
    for result in report.results:
        assert "the suite" not in result.reason
        assert result.reason.isprintable()
    assert all(text.encode() for text in (report.as_table(), report.as_json(), report.as_junit(), str(report)))


REFUSAL = b'{"type":"ack","payload":{"reply_to":"%b","ok":false,"error":"unknown message type: %b"}}'


def test_an_error_in_a_case_fails_it_and_the_run_goes_on():
    def check(_peer):
        raise LookupError("no such thing")

    with running("blocking", None, GuestSimulator()) as guest:
        report = run(guest.address, cases=[Case("It breaks.", "§1", check), CASES[0]])
    assert [result.outcome for result in report.results] == [Outcome.FAILED, Outcome.PASSED]
    assert report.failed[0].reason == "the suite could not carry the case out: LookupError: no such thing"


# ------------------------------------------------------------------------------------------------ reports

REPORT = Report(
    "tcp://127.0.0.1:1024",
    (
        Result("One.", "§1", Outcome.PASSED, seconds=0.25),
        Result("Two & <three>.", "§2", Outcome.FAILED, 'it said \0\x1b\ufffe "x" & <y>', 0.5),
        Result("Four.", "§6", Outcome.SKIPPED, "not allowed"),
    ),
)


def test_table():
    assert REPORT.as_table() == (
        "passed  §1  One.\n"
        "failed  §2  Two & <three>.\n"
        '            it said \0\x1b\ufffe "x" & <y>\n'
        "skipped §6  Four.\n"
        "            not allowed\n"
        "tcp://127.0.0.1:1024: 1 passed, 1 failed, 1 skipped in 0.75 s\n"
    )


def test_a_report_as_text_shows_what_did_not_pass():
    assert str(REPORT) == (
        "failed  §2  Two & <three>.\n"
        '            it said \0\x1b\ufffe "x" & <y>\n'
        "skipped §6  Four.\n"
        "            not allowed\n"
        "tcp://127.0.0.1:1024: 1 passed, 1 failed, 1 skipped in 0.75 s"
    )


def test_a_report_without_failures_is_one_line():
    report = Report("tcp://127.0.0.1:1024", REPORT.results[:1])
    assert str(report) == "tcp://127.0.0.1:1024: 1 passed, 0 failed, 0 skipped in 0.25 s"


def test_json():
    document = json.loads(REPORT.as_json())
    assert (document["ok"], document["counts"]) == (False, {"passed": 1, "failed": 1, "skipped": 1})
    assert document["results"][0] == {
        "name": "One.",
        "section": "§1",
        "outcome": "passed",
        "reason": "",
        "seconds": 0.25,
    }


def test_junit():
    suite = ElementTree.fromstring(REPORT.as_junit().encode())
    assert suite.attrib == {
        "name": "stereos conformance",
        "hostname": "tcp://127.0.0.1:1024",
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
        "time": "0.750",
    }
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["skipped"]]
    assert suite[1].attrib["name"] == "Two & <three>."
    assert suite[1][0].attrib["message"] == 'it said \ufffd\ufffd\ufffd "x" & <y>'


def test_results_are_told_as_they_come():
    told = []
    with running("blocking", None, GuestSimulator()) as guest:
        report = run(guest.address, on_result=told.append)
    assert tuple(told) == report.results


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_names_are_sentences_with_a_section(case):
    assert re.fullmatch(r"§([1-9]|10)", case.section)
    assert re.fullmatch(r"[A-Z`].*\.", case.name)


def test_sections_exist():
    page = Path(__file__).parents[2] / "docs" / "protocol.md"
    headings = re.findall(r"^## (\d+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {case.section[1:] for case in CASES} <= {*headings}


def test_an_address_is_text_in_the_report():
    assert run(TCP("127.0.0.1", 1), cases=CASES[:1]).address == "tcp://127.0.0.1:1"


@pytest.mark.parametrize("timeout", [1e10, float("inf")])
def test_a_timeout_longer_than_a_wait_can_be_is_a_day(timeout):
    case = next(case for case in CASES if case.need is Need.NOTHING)
    with running("blocking", None, GuestSimulator()) as guest:
        assert run(guest.address, cases=[case], timeout=timeout).ok
