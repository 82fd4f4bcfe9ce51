"""Lines of the wire as traces and recordings show them: without secrets, and still the same lines."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    AgentStatus,
    ConnectionLost,
    CustomRequest,
    Health,
    InjectSecret,
    LocalProtocolError,
    Mount,
    Ping,
    RequestFailed,
    Role,
    SetConfig,
    StereosError,
    encode,
)
from stereos_proto_io.addresses import parse_address
from stereos_proto_io.cli._contact_blocking import BlockingContact
from stereos_proto_io.cli._deadline import Deadline
from stereos_proto_io.cli._redact import REDACTED, LineTap, Redactor, redactor_of, with_sentence
from stereos_proto_io.cli._targets import Target

SECRET = "hunter22"


def after(*lines):
    redactor = Redactor()
    for line in lines:
        redactor.line(Role.HOST, line if isinstance(line, bytes) else line.encode())
    return redactor


def answer(redactor, line):
    return redactor.line(Role.GUEST, line.encode()).decode()


@pytest.mark.parametrize(
    "line",
    [
        '{"type":"ack","payload":{"error":"no hunter22","error":"no"}}',
        '{"type":"ack","type":"hunter22"}',
        '{"hunter22":1,"type":"ack"}',
        r'{"type":"ack","payload":{"error":"\u0068unter22","error":"h\u0075nter22"}}',
        '{"type":"ack","payload":{"other":["hunter22",{"hunter22":{"x":"hunter22"}}]}}',
        "no JSON: hunter22",
        '{"type":"ack","payload":{"error":"hunter22',
        '{"type":"ack","payload":{"error":"hunter22\\',
        '"hunter22"',
        '{"a":' * 5000 + '"hunter22"' + "}" * 5000,
    ],
)
def test_no_line_of_the_guest_shows_it(line):
    shown = answer(after(encode(InjectSecret("A", SECRET))), line)
    assert SECRET not in shown
    assert "unter22" not in shown.replace(REDACTED, "")
    assert REDACTED in shown


def test_a_line_keeps_its_shape():
    redactor = after(
        encode(InjectSecret("A", "ready")), encode(InjectSecret("B", "error")), encode(SetConfig("1234 5678"))
    )
    line = '{"type": "health", "payload": {"state": "ready", "n":1234 5678, "error":"ready: error"}}'
    # What is no JSON is redacted as a text; in JSON the protocol's own words stay, and so do numbers.
    assert REDACTED in answer(redactor, line)
    line = line.replace("1234 5678", "12345678")
    assert answer(redactor, line) == line.replace("ready: error", f"{REDACTED}: {REDACTED}")
    assert json.loads(answer(redactor, line))["payload"]["state"] == "ready"


@given(st.text(), st.text())
def test_an_answer_without_a_secret_stays_as_it_is(error, name):
    line = encode(Health("ready", [AgentStatus("name", True, error=error.encode("utf-8", "replace").decode())]))
    redactor = after(encode(InjectSecret("A", "\x00never\x00\x00 said")))
    if "never" not in error:
        assert redactor.line(Role.GUEST, line) == line


def test_texts():
    redactor = redactor_of([InjectSecret("A", SECRET), SetConfig("token = 'hunter33'")])
    assert redactor.text("hunter22, hunter33, hunter44") == f"{REDACTED}, {REDACTED}, hunter44"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            encode(InjectSecret("A", SECRET)),
            '{"type":"inject_secret","payload":{"name":"A","value":"[redacted]","mode":384}}',
        ),
        (encode(Mount("a", "/b", "9p")), '{"type":"mount","payload":{"tag":"a","guest_path":"/b","fs_type":"9p"}}'),
        (encode(CustomRequest("rotate", SECRET)), '{"type":"rotate","payload":"[redacted]"}'),
        (encode(CustomRequest("rotate", [SECRET])), '{"type":"rotate","payload":"[redacted]"}'),
        (
            b'{"type":"mount","payload":{"tag":5,"x":"hunter22"}}',
            '{"type":"mount","payload":{"tag":"[redacted]","x":"[redacted]"}}',
        ),
        (b'{"type":"ping","extra":"hunter22"}', '{"type":"ping","extra":"[redacted]"}'),
        (b'{"type":"inject_secret","payload":{"value":"hunter22', "[redacted] 52 bytes"),
        (b"hunter22", "[redacted] 8 bytes"),
        (b'["hunter22"]', "[redacted] 12 bytes"),
        (b'{"type":["hunter22"]}', "[redacted] 21 bytes"),
        (b"\r\n", ""),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_request(line, shown):
    redactor = Redactor()
    assert redactor.line(Role.HOST, line).decode().strip() == shown
    if b"hunter22" in line:
        assert SECRET not in answer(redactor, '{"type":"ack","payload":{"error":"hunter22"}}')


def test_old_requests_are_forgotten_in_the_end():
    redactor = after(encode(InjectSecret("A", SECRET)))
    line = '{"type":"ack","payload":{"error":"hunter22"}}'
    redactor.line(Role.HOST, encode(SetConfig("x" * 1_000_000)))
    redactor.line(Role.HOST, encode(SetConfig("y" * 1_000_000)))
    assert SECRET not in answer(redactor, line)
    redactor.line(Role.HOST, encode(SetConfig("z" * 1_000_000)))
    redactor.line(Role.HOST, encode(InjectSecret("A", "hunter33")))
    assert SECRET in answer(redactor, line)
    assert "hunter33" not in answer(redactor, line.replace("22", "33"))


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
def test_how_much_is_remembered_for_certain(more, kept):
    """A mebibyte of requests after the one with the secret, and a byte more."""
    secret = encode(InjectSecret("A", SECRET))
    # The generation with the secret is full, and the next one, too.
    size = 2**20 - len(secret.rstrip()) + 1
    redactor = after(secret, b"x" * size, b"y" * (2**20 - size + more))
    assert (SECRET not in answer(redactor, '{"type":"ack","payload":{"error":"hunter22"}}')) is kept


def test_a_request_that_was_cut_off_is_remembered_by_its_texts():
    redactor = after(
        r'{"type":"inject_secret","payload":{"name":"hunter33","value":"hunter22', "{'hunter44': \"hunter55\""
    )
    shown = answer(redactor, "hunter22 hunter33 hunter55 and a payload of an inject_secret with a value")
    assert shown == f"{REDACTED} {REDACTED} {REDACTED} and a payload of an inject_secret with a value"


def test_a_payload_that_does_not_fit_is_remembered():
    redactor = after(
        '{"type":"mount","payload":["hunter22"]}', '{"type":"set_config","payload":{"content":{"a":"hunter33"}}}'
    )
    assert redactor.text("hunter22 hunter33") == f"{REDACTED} {REDACTED}"


def test_a_short_secret_of_a_request_that_was_cut_off():
    redactor = Redactor()
    redactor.line(Role.HOST, b'{"type":"inject_secret","payload":{"name":"A","value":"w0rd","mode')
    assert redactor.line(Role.GUEST, encode(Ack("inject_secret", False, "no w0rd"))).count(b"w0rd") == 0


def test_the_names_in_a_payload_that_does_not_fit_are_remembered():
    redactor = Redactor()
    redactor.line(Role.HOST, b'{"type":"mount","payload":{"tag":5,"m3mber-x":1}}')
    assert redactor.line(Role.GUEST, encode(Ack("mount", False, "no m3mber-x"))).count(b"m3mber-x") == 0


def test_what_a_guest_writes_beyond_ascii_stays_readable():
    shown = answer(after(encode(InjectSecret("A", SECRET))), '{"type":"ack","payload":{"error":"für hunter22 — 失败"}}')
    assert shown == f'{{"type":"ack","payload":{{"error":"für {REDACTED} — 失败"}}}}'
    assert Redactor().line(Role.HOST, '{"type":"größe"}'.encode()).decode() == '{"type":"größe"}'


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"bc\n\n", b"\r\n", b"d" * 40])))
def test_a_stream_is_cut_into_its_lines(chunks):
    tap = LineTap()
    lines = [line for chunk in chunks for line in tap.feed(chunk)]
    *whole, rest = b"".join(chunks).split(b"\n")
    assert lines == [line + b"\n" for line in whole]
    assert tap.rest() == rest
    assert tap.rest() == b""


@pytest.mark.parametrize(("size", "held"), [(MAX_LINE_SIZE, True), (MAX_LINE_SIZE + 1, False)])
def test_no_more_is_held_back_than_a_line_may_have(size, held):
    tap = LineTap()
    data = b"x" * size
    assert [*tap.feed(memoryview(data))] == ([] if held else [data])
    assert tap.rest() == (data if held else b"")
    assert [*tap.feed(b"y\nz\n")] == [b"y\n", b"z\n"]


@pytest.mark.parametrize("error", ["word", "{}"])
def test_a_mebibyte_and_thousands_of_words(error):
    config = "\n".join(f'k{number} = "w{number * 7919:x}-{number:o}Z"' for number in range(4000))
    redactor = redactor_of([SetConfig(config)])
    if error == "word":
        line = encode(Ack("set_config", False, (config * 10)[: 2**19]))
    else:
        line = b'{"type":"health","payload":{"state":"ready","agents":[' + b",".join([b"{}"] * 2**18) + b"]}}"
    before = time.process_time()
    shown = redactor.line(Role.GUEST, line)
    assert time.process_time() - before < 30
    assert (shown == line) == (error == "{}")


class Searched(bytearray):
    """Notes from where it is searched."""

    def find(self, what, start=0):
        starts.append(start)
        return super().find(what, start)


starts: list[int] = []


def test_a_line_in_single_bytes_is_searched_once():
    """Else it takes minutes for a mebibyte."""
    tap = LineTap()
    tap._rest = Searched()
    starts.clear()
    assert [line for _ in range(1000) for line in tap.feed(b"x")] == []
    assert starts == list(range(1000))
    assert list(tap.feed(b"y\nab\nc")) == [b"x" * 1000 + b"y\n", b"ab\n"]
    assert list(tap.feed(b"\n\nd")) == [b"c\n", b"\n"]
    assert tap.rest() == b"d"
    assert list(tap.feed(b"\n")) == [b"\n"]


def test_a_report_less_what_it_quotes():
    report = Health("ready", [AgentStatus("a", True, error="no hunter22"), AgentStatus("b", False)])
    clean = Health("ready", [AgentStatus("a", True, error=f"no {REDACTED}"), AgentStatus("b", False)])
    secret = InjectSecret("A", SECRET)
    assert after(encode(secret)).message(report) == clean
    assert redactor_of([secret]).message(report) == clean
    # Nothing is read where there is nothing to look for, and nothing is made where nothing was found.
    for redactor in (Redactor(), after(encode(InjectSecret("A", "hunter33"))), redactor_of([InjectSecret("A", "no_")])):
        assert redactor.message(report) is report


@pytest.mark.parametrize("redactor", [Redactor(), redactor_of([InjectSecret("A", SECRET)])])
def test_a_report_that_is_larger_than_a_line_is_only_read_where_something_is_to_be_found(redactor):
    report = Health("ready", [AgentStatus("a", True, error="x" * MAX_LINE_SIZE)])
    if redactor._known is None:
        assert redactor.message(report) is report
    else:
        with pytest.raises(LocalProtocolError):
            redactor.message(report)


def test_an_error_less_what_it_quotes():
    redactor = redactor_of([InjectSecret("A", SECRET)])
    refused = redactor.error(RequestFailed(Ping(), "no hunter22"))
    assert (type(refused), refused.request, refused.error) == (RequestFailed, Ping(), f"no {REDACTED}")
    lost = ConnectionLost("hunter22 is gone", unanswered=[Ping()])
    shown = redactor.error(lost)
    assert (type(shown), shown.args, shown.unanswered) == (ConnectionLost, (f"{REDACTED} is gone",), (Ping(),))
    assert lost.args == ("hunter22 is gone",)
    other = ConnectionLost("it is gone")
    assert redactor.error(other) is other


def test_an_error_that_is_made_of_more_than_its_sentence_keeps_it():
    class Odd(StereosError):
        def __str__(self):
            return "hunter22"

    error = Odd(5)
    assert with_sentence(error, "another") is error
    plain = StereosError("one")
    assert with_sentence(plain, "one") is plain
    assert with_sentence(plain, "two").args == ("two",)
    assert plain.args == ("one",)


# ---------------------------------------------------------------------------------------------- what the user typed

NAME, ADDRESS = "web-server-01", "tcp://127.0.0.1:1"
CONFIG = SetConfig(f'name = "{NAME}"\n[agents.env]\nPROXY = "http://127.0.0.1:8080"\n')


@pytest.mark.parametrize(
    "text",
    [
        f"cannot connect to {NAME}: nobody listens there yet",
        f"cannot connect to {ADDRESS}: nobody listens there yet",
        f"{NAME}: {ADDRESS}: {NAME}",
        f"({NAME})",
    ],
)
def test_what_the_user_typed_stays(text):
    redactor = redactor_of([CONFIG])
    assert REDACTED in redactor.text(text)
    assert redactor.text(text, (NAME, ADDRESS)) == text


@pytest.mark.parametrize(
    "secret",
    [
        f"{NAME}-s3cr3t",
        f"pass-{NAME}",
        f"x{NAME}y",
        f"{NAME}{NAME}",
        f"{NAME}, {ADDRESS}",
        f"01-{ADDRESS}",
        f"http+{ADDRESS}/?key=5",
        "server-01xx",
        "s3cr3t-web-se",
        "01: it is",
    ],
)
@pytest.mark.parametrize("how", ["known", "sent", "both"])
def test_a_secret_with_a_public_word_in_it_stays_hidden(secret, how):
    known = [CONFIG, InjectSecret("A", secret)]
    redactor = Redactor() if how == "sent" else redactor_of(known if how == "known" else known[:1])
    if how != "known":
        redactor.line(Role.HOST, encode(known[1]))
    text = f"{NAME}: it is {secret}, not {secret.swapcase()}server-01xx s3cr3t-web-server-01 at {ADDRESS}"
    shown = redactor.text(text, (NAME, ADDRESS))
    assert secret in text
    assert secret not in shown
    assert len(shown) > len(REDACTED)


@given(st.data())
def test_no_secret_is_shown_that_is_no_part_of_a_public_word(data):
    some = st.text("ab0-:/.%\\ ", max_size=20) | st.text("ab", min_size=14, max_size=20)
    public = tuple(word.strip() for word in data.draw(st.lists(some.filter(str.strip), min_size=1, max_size=2)))
    word = data.draw(st.sampled_from(public))
    cut = data.draw(st.integers(0, len(word)))
    part = st.sampled_from([word, word[:cut], word[cut:]])
    secret = st.tuples(some, part, some).map("".join) | some
    secrets = data.draw(st.lists(secret, min_size=1, max_size=3))
    text = "".join(data.draw(st.lists(st.sampled_from([*secrets, *public]) | part | some, max_size=8)))
    redactor = redactor_of([InjectSecret("A", each) for each in secrets[1:]])
    redactor.line(Role.HOST, encode(InjectSecret("A", secrets[0])))
    shown = redactor.text(text, public)
    for each in secrets:
        each = each.strip()
        if len(each) >= 4 and not any(each in word for word in public):
            assert each not in shown


def test_a_secret_at_the_very_beginning_stays_hidden():
    secret = f"x{NAME}"
    assert redactor_of([InjectSecret("A", secret)]).text(secret, (NAME,)) == REDACTED


def test_of_public_words_the_longest_stays():
    redactor = redactor_of([InjectSecret("A", "vm-s3cr3t-01")])
    assert redactor.text("vm-s3cr3t-01 is gone", ("vm", "vm-s3cr3t-01")) == "vm-s3cr3t-01 is gone"


@given(st.from_regex(r"[a-z]{1,9}-[a-z0-9-]{0,30}[0-9]", fullmatch=True))
def test_the_name_of_a_guest_is_shown(name):
    redactor = redactor_of([SetConfig(f'name = "{name}"\n'), InjectSecret("A", name)])
    text = f"NAME <{name}>: not <{name}>!"
    assert redactor.text(text, (name,)) == text


def test_a_text_full_of_names_is_read_once():
    shown = redactor_of([CONFIG]).text(f"{NAME} " * 1000, (NAME,))
    assert shown.startswith(f"{NAME} {NAME} ")
    assert shown.endswith(f"{NAME} {REDACTED} {REDACTED} " + f"{REDACTED} " * 990)


def test_a_secret_with_the_address_in_it_is_found_before_a_name_takes_its_place():
    secret = f"key-{ADDRESS}-abcdef"
    contact = BlockingContact(Target("dup", parse_address(ADDRESS)), Deadline.after(1), None, None)
    contact.redactor = redactor_of([InjectSecret("A", secret)])
    error = StereosError(f"{ADDRESS} said {secret}")
    assert contact.sentence(error) == f"dup said {REDACTED}"
