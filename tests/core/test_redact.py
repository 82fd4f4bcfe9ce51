"""No secret stays in a text, however it is written there; what is no secret stays."""

import inspect
import json
import pickle
import random
import re
import shlex
import string
import time
import traceback
from html import escape
from urllib.parse import quote, quote_plus

import attrs
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from interrupts import every_place
from stereos_proto import (
    REDACTED,
    Ack,
    AgentStatus,
    CustomRequest,
    Health,
    InjectSecret,
    InjectSSHKey,
    Mount,
    Ping,
    Pong,
    Redactor,
    RequestFailed,
    SetConfig,
    UnknownMessage,
    _redact,
    redact_reply,
)
from stereos_proto._redact import MAX_SENTENCE, PART, SHORTEST

PEM = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
ab12
-----END PRIVATE KEY-----
"""


def of(*secrets):
    return Redactor([InjectSecret("NAME", secret) for secret in secrets])


def go_json(text):
    """As Go's encoding/json writes it."""
    plain = json.dumps(text, ensure_ascii=False)[1:-1]
    for sign in "<>&\u2028\u2029":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return plain


def go_quoted(text, ascii_only=False):
    """As Go's %q writes it, and %+q."""
    letters = {7: "a", 8: "b", 12: "f", 10: "n", 13: "r", 9: "t", 11: "v", 92: "\\", 34: '"'}

    def one(char):
        code = ord(char)
        if code in letters:
            return "\\" + letters[code]
        if code < 0x20 or code == 0x7F:
            return f"\\x{code:02x}"
        if code < 0x7F or (not ascii_only and char.isprintable()):
            return char
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return "".join(map(one, text))


def octal(text):
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\{byte:03o}" for byte in text.encode())


#: How a secret may stand in a text.
FORMS = {
    "plain": str,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, not ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "Go's JSON": go_json,
    "Go's %q": go_quoted,
    "Go's %+q": lambda text: go_quoted(text, ascii_only=True),
    "a line of JSON in Go's %q": lambda text: go_quoted(go_json(text)),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "Python": lambda text: repr(text)[1:-1],
    "Python, ASCII": lambda text: ascii(text)[1:-1],
    "Python, bytes": lambda text: repr(text.encode())[2:-1],
    "C, octal": octal,
    "the shell": lambda text: shlex.quote(text + " ")[1:-2],
    "the shell, backslashes": lambda text: re.sub(r"([^\w\s])", r"\\\1", text),
    "the shell, printf %q": lambda text: re.sub(r"(\W)", r"\\\1", text),
    "a URL": lambda text: quote(text, safe=""),
    "a form": quote_plus,
    "HTML": escape,
    "HTML, numbers": lambda text: "".join(f"&#{ord(sign)};" for sign in text),
    "HTML, hexadecimal": lambda text: re.sub(r"\W", lambda found: f"&#x{ord(found[0]):X};", text),
}
secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda text: len(text.strip()) >= SHORTEST and text.strip() not in REDACTED
)


# ------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("form", FORMS)
@given(secret=secrets)
@example(secret=PEM)
@example(secret="p@ss\"w'o\\r<d>&\t\x00\x7f%41")
@example(secret="\u00e9\u4e2d\u6587\U0001f600\u2028 x")
def test_a_secret_is_found_in_each_of_its_forms(form, secret):
    secret = secret.strip()
    # Python writes the single bytes of Latin-1 as others write those of UTF-8.
    assume(not re.search("[\xc0-\xff][\x80-\xbf]", secret))
    written = FORMS[form](secret)
    text = of(secret).redact(f"1: ~{written}~ :2")
    assert text == f"1: ~{REDACTED}~ :2"


@given(secrets, st.text(), st.text())
def test_a_secret_is_found_wherever_it_stands(secret, before, after):
    # A surrogate, which no secret has: with another sign the mark and what follows it could be the secret again.
    assert secret.strip() not in of(secret).redact(before + secret + after).replace(REDACTED, "\ud800")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=PART, max_size=200), st.data())
def test_any_part_of_a_long_secret_is_found(secret, data):
    start = data.draw(st.integers(0, len(secret) - PART))
    part = secret[start : data.draw(st.integers(start + PART, len(secret)))]
    assert part not in of(secret).redact(f"\ud800{part}\ud800")


@given(st.lists(st.text("ab", min_size=1, max_size=24), max_size=4), st.text("ab", max_size=60))
@example(["baba", "babaa"], "baba")
def test_exactly_the_places_of_secrets_are_covered(values, text):
    """Two letters make everything overlap. Each character that is left stands in no secret, each other one does."""
    covered = set()
    for value in values:
        wanted = [value] if len(value) < PART else {value[at : at + PART] for at in range(len(value) - PART + 1)}
        for one in wanted:
            places = [at for at in range(len(text)) if text.startswith(one, at)] if len(one) >= SHORTEST else []
            covered.update(place for at in places for place in range(at, at + len(one)))
    expected = "".join("\0" if place in covered else char for place, char in enumerate(text))
    assert of(*values).redact(text) == re.sub("\0+", REDACTED, expected)


def test_a_short_secret_does_not_cut_a_longer_one():
    assert of("hunter", "hunter22-longer").redact("x hunter22-longer x") == f"x {REDACTED} x"
    assert of("abcdef", "defghi").redact("abcdefghi") == REDACTED


@pytest.mark.parametrize("line", PEM.splitlines())
def test_each_line_of_a_secret_is_found(line):
    assert of(PEM).redact(f"bad line: {line}") == f"bad line: {REDACTED}"


def test_the_space_around_a_secret_does_not_matter():
    assert of("hunter22\n").redact("no hunter22.") == f"no {REDACTED}."


@pytest.mark.parametrize(
    "part",
    [
        "s3nt1nel-9f2c",
        'TOKEN = "s3nt1nel-9f2c"',
        's3nt1nel-9f2c"\n[[agents]]',
        "PASS=hunter2",
        "postgres://admin:hunter2@db",
    ],
)
def test_what_is_found_of_a_config(part):
    config = (
        '[secrets]\nTOKEN = "s3nt1nel-9f2c"\n[[agents]]\nenv = "PASS=hunter2"\nurl = "postgres://admin:hunter2@db"\n'
    )
    assert Redactor([SetConfig(config)]).redact(f"<{part}>") == f"<{REDACTED}>"


def test_how_long_is_long_enough():
    """The figures of the documentation, and one character less."""
    assert of("w0rd").redact("w0rd") == REDACTED
    assert of("wor").redact("wor") == "wor"
    secret = "".join(map(chr, range(0x100, 0x180)))
    for start in (0, 50, len(secret) - 16):
        assert of(secret).redact(secret[start : start + 16]) == REDACTED
        assert of(secret).redact(secret[start : start + 15]) == secret[start : start + 15]
    config = Redactor([SetConfig("key = w0rd-of8, w0rd-of-9")])
    assert config.redact("w0rd-of-9") == REDACTED
    assert config.redact("w0rd-of8") == REDACTED
    assert Redactor([SetConfig("key = w0rd-o7,")]).redact("w0rd-o7") == "w0rd-o7"


@pytest.mark.parametrize("size", range(5000, 5000 + PART))
def test_the_end_of_a_long_secret_is_found_in_the_first_short_text(size):
    secret = "".join(f"{number:x}" for number in range(2000, 5000))[:size]
    assert of(secret).redact(f"no {secret[-PART:]}") == f"no {REDACTED}"


# ----------------------------------------------------------------------------------------------- what stays


@pytest.mark.parametrize("secret", ["abc", "", " \n ", None, 5, ["abcd"], "redacted", "[redacted]"])
def test_what_is_not_looked_for(secret):
    text = "abcd is 5, [redacted] None"
    assert of(secret).redact(text) == (text if secret != ["abcd"] else text.replace("abcd", REDACTED))


def test_a_text_without_a_secret_is_the_same_object():
    text = "no such file or directory: %41 \\n &lt;"
    assert of("hunter22").redact(text) is text
    assert Redactor().redact(text) is text


def test_ordinary_words_of_a_config_stay():
    prompt = "Look into the directory, say whether a file is read-only; then restart.\nDirectory\nstop\nhere/there"
    redactor = Redactor([SetConfig(f'prompt = """{prompt}"""\nharness = "claude-code"')])
    for text in (
        "mkdir: no such file or directory",
        "read-only file system, restart",
        "claude-code: stop, in here/there",
        "Directory",
    ):
        assert redactor.redact(text) is text


def test_a_value_that_is_an_ordinary_word_is_a_secret():
    assert of("directory").redact("no such file or directory") == f"no such file or {REDACTED}"


def test_what_the_requests_show_stays():
    plan = [
        SetConfig('[[shared]]\nguest = "/mnt/project-2/workspace"\ntag = "share01x"\nkey = "s3cretw0rd"'),
        Mount("share01x", "/mnt/project-2/workspace", "9p"),
        InjectSSHKey("admin", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me"),
    ]
    text = "cannot mount share01x at /mnt/project-2/workspace, or use ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me"
    for requests in (plan, plan[::-1]):
        assert Redactor(requests).redact(text) is text
        assert Redactor(requests).redact("s3cretw0rd") == REDACTED
    # A value that was given as a secret stays one.
    assert Redactor([*plan, InjectSecret("A", "share01x")]).redact("no share01x") == f"no {REDACTED}"


def test_the_end_of_what_the_requests_show_is_a_secret_by_itself():
    """A word that they show in the middle of a longer one is not shown by that."""
    for word in ("s3cretw0rd-of15", "s3cretw0"):
        plan = [Mount("t", f"/mnt/project-{word}", "9p"), SetConfig(f'key = "{word}"')]
        assert Redactor(plan).redact(f"no {word}") == f"no {REDACTED}"


@given(secrets, st.text(max_size=80))
def test_twice_is_once(secret, text):
    redactor = of(secret)
    once = redactor.redact(text + secret + text)
    assert redactor.redact(once) == once or REDACTED in secret


# -------------------------------------------------------------------------------------------- custom requests


def test_a_payload_with_all_that_is_in_it():
    payload = {"token": ["hunter22", {"deep": "hunter33", "m3mber": 123456}], "pi": 3.14159, "flag": True, "none": None}
    redactor = Redactor([CustomRequest("rotate", payload)])
    shown = redactor.redact("token deep rotate flag True None: hunter22 hunter33 m3mber 123456 3.14159")
    assert shown == "token deep rotate flag True None: " + " ".join([REDACTED] * 5)
    assert Redactor([CustomRequest("rotate", "hunter22")]).redact("hunter22") == REDACTED
    assert Redactor([CustomRequest("rotate", {"a-long-m3mber-name": 1})]).redact("a-long-m3mber-name") == REDACTED


def test_payloads_that_cannot_be_sent():
    loop = ["hunter22"]
    loop.append(loop)
    for payload in (loop, {5: "hunter22"}, ["hunter22", 10**5000, float("inf"), object()], ("hunter22",)):
        assert Redactor([CustomRequest("x", payload)]).redact("hunter22 inf") == f"{REDACTED} inf"
    deep = "hunter22"
    for _ in range(100_000):
        deep = [deep]
    assert Redactor([CustomRequest("x", deep)]).redact("hunter22") == REDACTED


def test_numbers_of_a_payload():
    """Those of up to 300 digits: Python may refuse to write longer ones."""
    for number in (1234, -1234, 10**299, 10**300 - 1, 1 - 10**300):
        assert Redactor([CustomRequest("x", [number])]).redact(f"no {number}") == f"no {REDACTED}"
    for number in (10**300, -(10**300), 123):
        assert Redactor([CustomRequest("x", [number])]).redact(f"no {number}") == f"no {number}"


def test_a_custom_request_with_the_name_of_a_class():
    redactor = Redactor([CustomRequest("inject_secret", {"name": "TOKEN", "value": "hunter22", "other": "hunter33"})])
    assert redactor.redact("TOKEN hunter22 hunter33") == f"TOKEN {REDACTED} {REDACTED}"
    assert Redactor([CustomRequest("mount", "hunter22")]).redact("mount hunter22") == f"mount {REDACTED}"


# ------------------------------------------------------------------------------------------------- replies


def test_refusals():
    request = InjectSecret("A", "hunter22")
    assert redact_reply(Ack("inject_secret", False, "no hunter22"), [request]).error == f"no {REDACTED}"
    for reply in (
        Pong(),
        Ack("inject_secret", True),
        Ack("x", False),
        Ack("x", False, "disk full"),
        Health("hunter22"),
    ):
        assert redact_reply(reply, [request]) is reply
        assert of("hunter22").redact_reply(reply) is reply


def test_a_sentence_that_is_too_long():
    """A guest may send a mebibyte for each request: it is neither read nor kept."""
    for secret in ("hunter22", "hunter22" * 100):
        for start in range(MAX_SENTENCE - 20, MAX_SENTENCE + 20):
            error = f"{'.' * start}{secret}{'.' * 2**20}"
            clean = of(secret).redact_reply(Ack("x", False, error)).error
            redacted = REDACTED if start < MAX_SENTENCE else ""
            dots = min(MAX_SENTENCE, start) + max(MAX_SENTENCE - start - len(secret), 0)
            assert clean.replace(".", "") == f"{redacted}… ({len(error)} characters)"
            assert clean.count(".") == dots
            again = of(secret).redact_reply(Ack("x", False, clean))
            assert again.error == clean
    assert Redactor().redact("x" * 9000, max_length=10) == "xxxxxxxxxx… (9000 characters)"
    assert Redactor().redact("x" * 203, max_length=10) == "xxxxxxxxxx… (203 characters)"
    assert Redactor().redact("x" * 202, max_length=10) == "x" * 202
    assert RequestFailed(Ping(), "x" * 9000).error == "x" * 8192 + "… (9000 characters)"
    assert RequestFailed(Ping(), "x" * MAX_SENTENCE).error == "x" * MAX_SENTENCE


def test_whole_messages():
    redactor = of("hunter22")
    health = Health("hunter22", [AgentStatus("a", True, "hunter22", 5, "hunter22")], 7)
    clean = Health(REDACTED, [AgentStatus("a", True, REDACTED, 5, REDACTED)], 7)
    assert redactor.redact_message(health) == clean
    assert redactor.redact_message(UnknownMessage("hunter22", {"hunter22": [1, "hunter22", None]})) == UnknownMessage(
        REDACTED, {REDACTED: [1, REDACTED, None]}
    )
    assert redactor.redact_message(Ack("hunter22", True)) == Ack(REDACTED, True)
    assert type(redactor.redact_message(Health("ready")).state) is type(Health("ready").state)
    assert of("w0rd").redact_message(Ack("w0rd", True)) == Ack(REDACTED, True)


# ------------------------------------------------------------------------------------------- the object itself


def test_messages_can_be_added():
    redactor, request = Redactor(), InjectSecret("A", "hunter22")
    assert redactor.redact("hunter22") == "hunter22"
    redactor.add(request, request, Ping())
    redactor.add(request)
    assert repr(redactor) == "<Redactor of 2 messages>"
    assert redactor.redact("hunter22") == REDACTED
    redactor.add(attrs.evolve(request, value="hunter33"))
    assert redactor.redact("hunter22 hunter33") == f"{REDACTED} {REDACTED}"


def test_it_is_not_pickled():
    with pytest.raises(TypeError, match="holds secrets"):
        pickle.dumps(of("hunter22"))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (r"\U001fffff abcd", "abcd"),
        (r"\U00110000abcd", "\ufffdabcd"),
        (r"\U0010ffffabcd", "\U0010ffffabcd"),
        (r"\ud83d abcd", "abcd"),
        (r"\xff\xfeabcd", "\xff\xfeabcd"),
        (r"\377abcd", "\xffabcd"),
        (r"%ffabcd", "\xffabcd"),
        ("'abc'\\''d'", "abc'd"),
        ("'abc'\"'\"'d'", "abc'd"),
        (r"ab\0\ecd", "ab\0\x1bcd"),
        ("abcd\\", "abcd"),
        ("%abcd%", "abcd"),
    ],
)
def test_escapes_that_are_rare(text, secret):
    assert REDACTED in of(secret).redact(text)
    assert secret not in of(secret).redact(text)


@pytest.mark.parametrize("text", ["echo", "other", "slashes", "escapes", "percent"])
def test_a_mebibyte_and_thousands_of_words(text):
    """The time is linear: with one `str.replace` for each word it was nearly a minute."""
    words = [f"w{number * 7919:x}-{number:o}Z" for number in range(4000)]
    config = "\n".join(f'k{number} = "{word}"' for number, word in enumerate(words))
    made = {"echo": config, "other": "the quick brown ", "slashes": "\\", "escapes": "\\n\\u0041", "percent": "%41"}[
        text
    ]
    made = (made * (2**20 // len(made) + 1))[: 2**20]
    before = time.process_time()
    clean = Redactor([SetConfig(config)]).redact(made)
    assert time.process_time() - before < 30
    assert (clean is made) == (text != "echo")


@given(st.text("abc \n", max_size=200), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=3))
def test_a_long_secret_is_found_as_a_short_one_is(secret, cuts):
    """Long secrets are compared with the text by samples; the outcome is that of knowing every part."""
    text = "<".join(["no: ", *(secret[start : start + size] for start, size in cuts), "end"])
    found = []
    for longest in (1, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_redact, "_LONG", longest)
            patch.setattr(_redact.Redactor, "_learn_long", lambda self: None)
            found.append(Redactor([SetConfig(secret)]).redact(text))
    assert found[0] == found[1]


def test_a_long_secret_is_searched_only_for_a_sentence_that_may_quote_it():
    class Searched(Exception):
        pass

    class Secret(str):
        __slots__ = ()

        def __getitem__(self, _place):
            raise Searched

    long = "".join(map(str, range(3000)))
    redactor = Redactor([SetConfig(long)])
    assert redactor.redact("no such file or directory") == "no such file or directory"
    redactor._long = [(Secret(long), ())]
    assert redactor.redact("no space left on device") == "no space left on device"
    with pytest.raises(Searched):
        redactor.redact(f"line 1: {long[100:120]}")


def test_a_long_secret_is_learnt_when_it_is_worth_it():
    secret = "".join(map(str, range(3000)))
    redactor = Redactor([SetConfig(secret)])
    for start in (5000, 6000):
        assert redactor.redact(secret[start : start + 20]) == "[redacted]"
        assert redactor._long, "two sentences are not worth it"
    redactor.redact("x" * len(secret))
    assert not redactor._long
    assert redactor.redact(secret[5000:5020]) == "[redacted]"


@pytest.mark.parametrize("start", range(5000, 5000 + PART))
def test_any_part_of_a_long_secret_is_found_in_the_first_short_text(start):
    """Before its parts are learnt, samples of a long secret are compared: each part holds one, wherever it begins."""
    secret = "".join(f"{number:x}" for number in range(2000, 5000))
    assert len(secret) > 5000 + 3 * PART
    part = secret[start : start + PART]
    assert of(secret).redact(f"no {part}") == f"no {REDACTED}"


def test_an_interrupt_passes_without_the_frames_that_read_a_secret(monkeypatch):
    def interrupted(_self, _text, _end):
        raise KeyboardInterrupt

    monkeypatch.setattr(Redactor, "_redacted", interrupted)
    redactor = Redactor([InjectSecret("TOKEN", "s3nt1nel-value")])
    for ask in (redactor.redact, lambda text: redact_reply(Ack("mount", False, text), [])):
        with pytest.raises(KeyboardInterrupt) as caught:
            ask("it was s3nt1nel-value")
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)][1:]
        ours = [frame for frame in frames if frame.f_code.co_filename.endswith("stereos_proto/_redact.py")]
        assert not any("s3nt1nel" in repr(frame.f_locals) for frame in ours)


def test_many_short_texts_against_one_long_secret():
    """Each of them holds a piece of it, so each asks for a search. The searches are counted, and then it is learnt."""
    secret = "".join(random.Random(1).choices(string.ascii_lowercase + string.digits, k=65_536))
    redactor = of(secret)
    for number in range(200):
        assert redactor.redact(f"-{secret[8 * number : 8 * number + PART]}-") == f"-{REDACTED}-"
    assert not redactor._long
    assert len(redactor._parts) > 60_000


def test_a_redactor_finds_its_secrets_after_an_interrupt(monkeypatch):
    monkeypatch.setattr(_redact, "_LONG", 64)
    secrets = [InjectSecret("A", "tok-123456-secret"), InjectSecret("B", "z" * 20 + "0123456789" * 6)]

    def scene(interrupter):
        redactor = Redactor()
        for secret in secrets:
            with interrupter:
                redactor.add(secret)
            redactor.add(secret)
            for _ in range(2):
                with interrupter:
                    assert "tok-123456" not in redactor.redact("bad token tok-123456-secret")
        for text in ("bad token tok-123456-secret", "zzzzzzzzzzzzzzzzzzzz0123", "x" * 90 + "7890123456789012345678"):
            with interrupter:
                redactor.redact(text)
            assert "[redacted]" in redactor.redact(text)

    every_place(scene)


def test_what_is_redacted_is_positional():
    """`inspect.signature` and type checkers took `text=` for right, and it failed."""
    redactor = Redactor()
    for method in (redactor.redact, redactor.redact_reply, redactor.redact_message):
        first = next(iter(inspect.signature(method).parameters.values()))
        assert first.kind is inspect.Parameter.POSITIONAL_ONLY
