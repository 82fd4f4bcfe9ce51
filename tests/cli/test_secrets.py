"""A sentinel, given as a secret in every way there is, appears nowhere: on no screen, in no trace, recording,
history or list of processes.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.fleets import keep_state
from cli_harness import plain, run_cli, terminal
from stereos_proto import CustomRequest, InjectSecret, Kind, Role, SetConfig, decode, encode
from stereos_proto._registry import REGISTRY
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli._redact import REDACTED, LineTap, Redactor
from stereos_proto_io.testing import simulated_guest

SENTINEL = "s3ntinel-Wert\"<&>'\\\u00e9"
JCARD = f"[secrets]\nA = '''{SENTINEL}'''\nB = \"${{B}}\"\n[[agents]]\nname = 'x'\nharness = 'custom'\n"

#: The ways to give a secret: a command, and what is on its standard input. SECRET is a file, JCARD another.
WAYS = {
    "stdin": ("secret set NAME @", SENTINEL),
    "a file": ("secret set NAME @ --file SECRET", ""),
    "the environment": ("secret set NAME @ --env B", ""),
    "a bad name": ("secret set ../NAME @ --file SECRET", ""),
    "behind its name": ("secret set NAME=SENTINEL @", "x"),
    "behind its name, without a guest": ("secret set NAME=SENTINEL", "x"),
    "behind its name, with another argument": ("secret set NAME=SENTINEL @ --file SECRET", ""),
    "as an argument, wrongly": ("secret set NAME SENTINEL", ""),
    "as an argument, more wrongly": ("secret set NAME @ SENTINEL", ""),
    "as an unknown option": ("secret set NAME @ --SENTINEL", ""),
    "as a mode": ("secret set NAME @ --env B --mode SENTINEL", ""),
    "as the name of a variable": ("secret set NAME @ --env SENTINEL", ""),
    "as a URL": ("secret set NAME db://SENTINEL", ""),
    "a jcard": ("provision JCARD @", ""),
    "a jcard, dry": ("provision JCARD @ --dry-run", ""),
    "a jcard from stdin": ("provision - @", JCARD),
    "a jcard with a fault": ("provision - @", JCARD + "= broken"),
    "a jcard with a secret of a wrong type": ("provision - @", f"[secrets]\nA = ['''{SENTINEL}''']"),
    "a config": ("config set - @", f"# {SENTINEL}"),
    "a config with secrets": ("config set JCARD @", ""),
    "send": ("send inject_secret - @", json.dumps({"name": "x", "value": SENTINEL})),
    "send, with members that nobody knows": ("send inject_secret - @", json.dumps({"name": "x", "v": SENTINEL})),
    "send, of a wrong type": ("send inject_secret - @", json.dumps({"name": "x", "value": [SENTINEL]})),
    "send, no JSON": ("send inject_secret - @", f"{{{SENTINEL}"),
    "send, as an argument": ("send inject_secret SENTINEL @", ""),
    "send, a custom one": ("send rotate - @", json.dumps({"token": SENTINEL})),
    "send, a custom one as a word": ("send rotate - @", json.dumps(SENTINEL)),
}


def forms(secret: str) -> set[str]:
    """How a secret may look in a text."""
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        "s3ntinel",
    }


def assert_hidden(text: str, *, where: str = "") -> None:
    assert not [form for form in forms(SENTINEL) if form in text], (where, text)


def words(command: str, folder: Path, address: object) -> list[str]:
    places = {"@": str(address), "SECRET": str(folder / "secret"), "JCARD": str(folder / "jcard")}
    return [places.get(word, word.replace("SENTINEL", SENTINEL)) for word in command.split()]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").write_text(SENTINEL)
    (tmp_path / "jcard").write_text(JCARD)
    return tmp_path


@pytest.mark.parametrize("flags", [[], ["-v"], ["--json"]], ids=["plain", "traced", "json"])
@pytest.mark.parametrize(
    "faults", [[], [f"fail:no {SENTINEL}"], ["cut:0"], ["garbage"]], ids=["", "quoted", "cut", "bad"]
)
@pytest.mark.parametrize(("command", "stdin"), WAYS.values(), ids=WAYS)
def test_no_output_shows_it(command, stdin, faults, flags, folder, monkeypatch):
    faults = [fault.replace("@", "%40").replace("#", "%23") for fault in faults]
    faults = [f"{fault}@{type_}" if fault != "cut:0" else "power-off@get_health" for fault in faults for type_ in TYPES]
    with simulated_guest(UnixSocket(folder / "g"), faults=faults) as guest:
        arguments = [*words(command, folder, guest.address), *flags]
        result = run_cli(monkeypatch, *arguments, stdin=stdin.encode(), env={"B": SENTINEL}, tty="-v" in flags)
    assert_hidden(plain(result.all).replace("\n", ""))
    assert "Traceback" not in result.all
    assert result.code == 0 or result.err or "--json" in flags or "provision" in command or "send" in command


TYPES = ("inject_secret", "set_config", "rotate")


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["plain", "json"])
@pytest.mark.parametrize("name", [f"NAME={SENTINEL}", f"={SENTINEL}", "NAME="])
def test_a_value_behind_the_name_is_refused_with_how_to_give_it(name, flags, folder, monkeypatch):
    with simulated_guest(UnixSocket(folder / "g")) as guest:
        result = run_cli(monkeypatch, "secret", "set", name, str(guest.address), *flags, stdin=b"x")
        assert guest.simulator.requests == ()
    sentence = (
        "NAME contains '=', and is not shown: a secret's value is never an argument, which every process of this "
        "machine can read; give NAME alone, and the value on standard input, or by --file or --env"
    )
    assert (result.code, result.err) == (2, f"stereosctl: {sentence}\n")
    assert not flags or json.loads(result.out)["error"] == sentence


REFUSED = {
    "-o odd": "-o takes one of",
    "-o template={odd}": "a template knows no {odd}",
    "--json -o wide": "--json and -o cannot be combined",
    "--timeout 0": "--timeout must be more than 0 seconds",
    "--total-timeout 0": "--total-timeout must be more than 0 seconds",
    "--parallel 0": "--parallel must be at least 1",
}
NO_MODE = "--mode takes the permission bits of a file in octal, from 0000 to 0777, such as 0600"


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        *(("secret set A", f"--mode {mode}", NO_MODE) for mode in ("77777", "4600", "-1", "0_600", "8", "rw")),
        *(
            (command, words, sentence)
            for command in ("secret set A", "config set -", "ssh-key add - --user x", "provision -")
            for words, sentence in REFUSED.items()
        ),
    ],
)
def test_nothing_is_typed_for_a_command_that_is_refused(command, words, sentence, folder, monkeypatch):
    def ask(*_args):
        raise AssertionError("nothing is to be read")

    # In this order: a module that is loaded while another one is patched keeps what it takes from there.
    for name in ("_provision.read_text", "_commands_give._secret_value", "_commands_give.read_text"):
        monkeypatch.setattr(f"stereos_proto_io.cli.{name}", ask)
    with simulated_guest(UnixSocket(folder / "g")) as guest:
        result = run_cli(monkeypatch, *command.split(), str(guest.address), *words.split())
        assert guest.simulator.requests == ()
    assert (result.code, sentence in result.err) == (2, True), result


@pytest.mark.parametrize("command", ["send inject_secret -", "replay -"])
@pytest.mark.parametrize("words", ["tcp://127.0.0.1:1 --timeout 0", "--vm nowhere", "127.0.0.1:1", ""])
def test_nothing_is_typed_for_a_guest_that_is_refused(command, words, monkeypatch):
    given = [*command.split(), *words.split()]
    empty, typed = run_cli(monkeypatch, *given), run_cli(monkeypatch, *given, stdin=b"{}")
    assert "cannot read standard input" not in empty.err
    assert (empty.code, empty.out) == (2, "")
    assert empty == typed


@pytest.mark.parametrize("mode", ["0", "400", "0600", "00640", "0o777"])
def test_a_mode_is_permission_bits(mode, folder, monkeypatch):
    with simulated_guest(UnixSocket(folder / "g")) as guest:
        assert run_cli(monkeypatch, "secret", "set", "A", str(guest.address), "--mode", mode, stdin=b"x").code == 0
        assert guest.simulator.requests[-1].mode == int(mode, 8)


def test_a_hidden_prompt_shows_nothing(folder):
    with (
        simulated_guest(UnixSocket(folder / "g")) as guest,
        terminal("secret", "set", "NAME", str(guest.address)) as it,
    ):
        it.wait_for("not shown")
        it.type(f"{SENTINEL}\n")
        assert it.end() == 0
        assert_hidden(plain(it.seen))
        assert guest.simulator.secrets["NAME"].value == SENTINEL


def test_no_process_has_it_in_its_arguments(folder):
    with (
        simulated_guest(UnixSocket(folder / "g")) as guest,
        terminal("secret", "set", "NAME", str(guest.address)) as it,
    ):
        it.wait_for("not shown")
        it.type(SENTINEL)
        assert_hidden(Path(f"/proc/{it.process.pid}/cmdline").read_text())
        it.type("\n")
        assert it.end() == 0


def test_the_simulator_shows_its_requests_without_it(folder, monkeypatch):
    with terminal("simulate") as guest:
        guest.wait_for("\n")
        address = plain(guest.seen).split()[0]
        for command, stdin in WAYS.values():
            arguments = words(command, folder, address)
            run_cli(monkeypatch, *arguments, stdin=stdin.encode(), env={"B": SENTINEL})
        run_cli(monkeypatch, "shutdown", address)
        assert guest.end() == 0
    assert "InjectSecret(name='NAME', mode=0o600)" in plain(guest.seen)
    assert_hidden(plain(guest.seen))


def test_the_shell_forgets_it(folder):
    with simulated_guest(UnixSocket(folder / "g")) as guest:
        env = {"XDG_STATE_HOME": str(folder), "B": SENTINEL}
        with terminal("shell", str(guest.address), env=env, columns=300) as it:
            for line, shown in (
                ("secret set A --env B", "✓ secret A"),
                ("secret set A s3ntinel", "stereosctl:"),
                ("send rotate '\"s3ntinel\"'", "unknown message type"),
                ("help secret set A=s3ntinel", "Usage:"),
                ("s3ntinel", "there is no command"),
                ("ping", "pong from"),
            ):
                it.wait_for("g> ")
                it.seen = ""
                it.type(f"{line}\n")
                it.wait_for(shown)
            it.wait_for("g> ")
            it.type("exit\n")
            assert it.end() == 0
    history = (folder / "stereosctl" / "history").read_text()
    assert "ping" in history
    assert_hidden(history)
    assert (folder / "stereosctl" / "history").stat().st_mode & 0o077 == 0


# ------------------------------------------------------------------------------------------ redaction

#: Every request that carries something hidden, filled with the sentinel wherever a text may stand.
CARRIERS = [row.cls for row in REGISTRY if row.kind is Kind.REQUEST and attrs.fields(row.cls)]


@pytest.mark.parametrize("cls", CARRIERS)
def test_hidden_fields_are_redacted_by_their_class(cls):
    values = {field.name: SENTINEL for field in attrs.fields(cls) if field.type in (str, "str")}
    hidden = [field.name for field in attrs.fields(cls) if field.repr is False]
    line = encode(cls(**{**values, **({"public_key": f"ssh-rsa {SENTINEL}"} if "public_key" in values else {})}))
    shown = json.loads(Redactor().line(Role.HOST, line))["payload"]
    assert {name for name, value in shown.items() if value == REDACTED} == set(hidden)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(SENTINEL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "name", "value"]), inner),
    max_leaves=8,
)
lines = st.one_of(
    st.builds(
        lambda type_, payload, extra: json.dumps({"type": type_, "payload": payload, "x": extra}).encode(),
        st.sampled_from(["inject_secret", "set_config", "rotate"]),
        st.fixed_dictionaries(
            {"value": st.just(SENTINEL)}, optional={"name": json_values.filter(lambda v: v != SENTINEL)}
        ),
        json_values,
    ),
    st.builds(lambda cut: encode(InjectSecret("A", SENTINEL))[:cut], st.integers(30, 80)),
    st.builds(lambda payload: encode(CustomRequest("rotate", payload)), json_values),
    st.just(encode(SetConfig(f"x = '{SENTINEL}'"))),
)


@given(st.lists(lines, min_size=1, max_size=5))
def test_no_line_of_a_conversation_keeps_it(requests):
    redactor = Redactor()
    for line in requests:
        assert_hidden(redactor.line(Role.HOST, line).decode())
    redactor.line(Role.HOST, encode(InjectSecret("A", SENTINEL)))
    answer = json.dumps({"type": "ack", "payload": {"error": f"no {SENTINEL}: {json.dumps(SENTINEL)}"}})
    assert_hidden(redactor.line(Role.GUEST, answer.encode()).decode())


def test_a_redacted_line_is_still_a_request_of_its_type():
    for request in (InjectSecret("A", SENTINEL), SetConfig(SENTINEL), CustomRequest("rotate", {"to": SENTINEL})):
        line = Redactor().line(Role.HOST, encode(request))
        assert line.endswith(b"\n")
        assert type(decode(line.rstrip(b"\n"), sender=Role.HOST)) is type(request)


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=5), st.data())
def test_a_tap_gives_the_same_lines_however_they_are_cut(bodies, data):
    stream = b"".join(body + b"\n" for body in bodies) + b"rest"
    tap, found = LineTap(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += tap.feed(stream[:cut])
        stream = stream[cut:]
    assert found == [body + b"\n" for body in bodies]
    assert tap.rest() == b"rest"


@pytest.mark.parametrize("keep", [False, True])
def test_a_recording_has_it_only_when_asked_for(keep, folder, monkeypatch):
    path = folder / "recording.ndjson"
    with simulated_guest(UnixSocket(folder / "g")) as guest:
        flags = ["--keep-secrets"] if keep else []
        with terminal("record", str(path), str(guest.address), "--listen", f"unix://{folder}/p", *flags) as proxy:
            proxy.wait_for("/p")
            for command, stdin in WAYS.values():
                arguments = words(command, folder, f"unix://{folder}/p")
                run_cli(monkeypatch, *arguments, stdin=stdin.encode(), env={"B": SENTINEL})
            proxy.interrupt()
            assert proxy.end() == 0
        assert guest.simulator.secrets["NAME"].value == SENTINEL
    assert_hidden(plain(proxy.seen))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    recorded = "".join(base64.b64decode(row["b64"]).decode() for row in rows if "b64" in row)
    assert '"inject_secret"' in recorded
    assert path.stat().st_mode & 0o077 == 0
    if keep:
        assert "s3ntinel" in recorded
    else:
        assert_hidden(recorded)
        assert_hidden(run_cli(monkeypatch, "decode", str(path)).all)


@pytest.mark.parametrize(
    "line",
    [
        *("secret set K", "config set -", "ssh-key add - --user admin", "send inject_secret -", "provision -"),
        *("decode -", "replay -", "simulate --attached"),
    ],
)
def test_the_lines_of_a_shell_are_not_read_for_a_value(line, monkeypatch):
    with simulated_guest() as guest:
        lines = f"{line}\nping\nsecret set L --env VALUE\n".encode()
        result = run_cli(monkeypatch, "shell", str(guest.address), stdin=lines, env={"VALUE": "of-the-variable"})
        assert list(guest.simulator.secrets) == ["L"]
    said = "stereosctl: standard input has the commands of this shell, so "
    assert (result.code, result.err.count(said)) == (0, 1), result
    assert result.out.startswith("pong from"), "the next line is the next command"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (b"abc", "abc"),
        (b"abc\n", "abc"),
        (b"abc\r\n", "abc"),
        (b"abc\r", "abc\r"),
        (b"abc\n\r", "abc\n\r"),
        (b"abc\r\r\n", "abc\r"),
        (b"abc\n\n", "abc\n"),
    ],
)
def test_a_secret_from_a_pipe_loses_one_line_end(given, stored, monkeypatch):
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "secret", "set", "A", str(guest.address), stdin=given)
        assert result.code == 0
        assert guest.simulator.secrets["A"].value == stored


# -------------------------------------------------------------------------------------- what the user typed is public


@pytest.mark.parametrize("names", [["web-server-01"], ["web-server-01", "web-server-02"], ["tcp://127.0.0.1:1"]])
def test_provision_calls_the_guest_as_the_user_does(names, tmp_path, monkeypatch):
    """Although its name, and a part of its address, stand in the config, which is a secret as a whole."""
    (tmp_path / "j.toml").write_text(
        'name = "web-server-01"\n[[agents]]\nname = "x"\nharness = "custom"\n'
        '[agents.env]\nPROXY = "http://127.0.0.1:8080"\nOTHER = "web-server-02"\n'
    )
    for name in ("web-server-01", "web-server-02"):
        keep_state(tmp_path, name, {"backend": "qemu", "vsock_port": 1})
    guests = [each for word in names for each in ([word] if "://" in word else ["--vm", word])]
    words = ("provision", str(tmp_path / "j.toml"), *guests, "--timeout", "2")
    result = run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)})
    assert result.code == 124
    assert REDACTED not in result.all
    for name in names:
        assert f"cannot connect to {name}: nobody listens there yet" in result.all


def test_a_report_calls_the_guest_as_the_user_does(tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text('name = "web-server-01"\n[secrets]\nA = "web-server-01-s3cr3t"\n')
    with simulated_guest(faults=["close@inject_secret"]) as guest:
        keep_state(tmp_path, "web-server-01", {"backend": "qemu", "vsock_port": guest.address.port})
        words = ("provision", str(tmp_path / "j.toml"), "--vm", "web-server-01")
        result = run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)})
    # It depends on the moment whether the config had left.
    assert result.code in (3, 5)
    assert "web-server-01" in result.out
    assert REDACTED not in result.all
