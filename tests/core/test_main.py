"""`python -m stereos_proto`."""

import io
import os
import runpy
import subprocess
import sys

import pytest

import vectors
from stereos_proto import MAX_LINE_SIZE
from stereos_proto.__main__ import main


class Stdin:
    def __init__(self, data):
        self.buffer = io.BytesIO(data)


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*argv, stdin=b""):
        monkeypatch.setattr(sys, "stdin", Stdin(stdin))
        code = main(argv)
        return code, *capsys.readouterr()

    return call


def test_each_line_by_whoever_sends_its_type(run):
    lines = (
        b'{"type":"ping"}\n\n{"type":"pong"}\r\n\r\n'
        b'{"type":"inject_secret","payload":{"name":"a","value":"hunter2"}}\n'
        b'{"type":"what","payload":"hunter2"}\n{"type":"lifecycle","payload":{"state":"odd"}}'
    )
    assert run(stdin=lines) == (
        0,
        (
            "Ping()\nPong()\nInjectSecret(name='a', mode=0o0)\nCustomRequest(type='what')\n"
            "Lifecycle(state='odd', message='')\n"
        ),
        "",
    )


def test_all_lines_from_one_sender(run):
    assert run("--sender", "guest", stdin=b'{"type":"ping"}\n') == (
        0,
        "UnknownMessage(type='ping', payload=None)\n",
        "",
    )
    assert run("--sender", "host", stdin=b'{"type":"pong"}\n') == (0, "CustomRequest(type='pong')\n", "")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (b'{"type":x}', "1:9: invalid character 'x' looking for beginning of value"),
        (b'\n{"type":"ping"}\n[]\n', "3:1: must be an object, not array"),
        (
            b'{"type":"mount","payload":{"tag":1}}\n',
            "1:1: the host sent mount with a payload that does not fit: payload.tag must be a string, not number",
        ),
        (b" \n", "1:2: unexpected end of JSON input"),
        (b"x" * MAX_LINE_SIZE, "1:1: the line is longer than 1048576 bytes"),
        (b"x" * MAX_LINE_SIZE + b"\n", "1:1: the line is longer than 1048576 bytes"),
        (b"x" * (MAX_LINE_SIZE - 1) + b"\r\n", "1:1: the line is longer than 1048576 bytes"),
        (b"x" * (MAX_LINE_SIZE - 1) + b"\n", "1:1: invalid character 'x' looking for beginning of value"),
        (b"x" * (MAX_LINE_SIZE - 2) + b"\r\n", "1:1: invalid character 'x' looking for beginning of value"),
    ],
)
def test_the_first_fault(run, lines, fault):
    code, out, err = run(stdin=lines + b"\n{")
    assert (code, err) == (1, f"stdin:{fault}\n")
    assert out == ("Ping()\n" if b"ping" in lines else "")


def test_a_file(run, tmp_path):
    recorded = tmp_path / "recorded.ndjson"
    recorded.write_bytes(vectors.stream("bringup", "c2s") + b"oops\n")
    code, out, err = run(str(recorded))
    assert code == 1
    assert out.splitlines()[:2] == ["GetHealth()", "SetConfig()"]
    assert err == f"{recorded}:11:1: invalid character 'o' looking for beginning of value\n"


def test_a_file_that_is_not_there(run, tmp_path):
    missing = tmp_path / "missing"
    assert run(str(missing)) == (1, "", f"{missing}: No such file or directory\n")


@pytest.mark.parametrize("argv", [["--sender", "nobody"], ["a", "b"], ["--what"]])
def test_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: python -m stereos_proto" in capsys.readouterr().err


def command(*argv, **options):
    return subprocess.run([sys.executable, "-m", "stereos_proto", *argv], capture_output=True, check=False, **options)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_exit_code_is_what_main_returns(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stereos_proto"])
    monkeypatch.setattr(sys, "stdin", Stdin(b"{"))
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("stereos_proto", run_name="__main__")
    assert caught.value.code == 1
    assert capsys.readouterr().err


def test_as_a_command():
    done = command(input=b'{"type":"pong"}\n{')
    assert (done.returncode, done.stdout) == (1, b"Pong()\n")
    assert done.stderr == b"stdin:2:2: unexpected end of JSON input\n"


def test_what_the_terminal_cannot_show():
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = command(input='{"type":"lifecycle","payload":{"state":"é"}}'.encode(), env=env)
    assert (done.returncode, done.stdout) == (0, b"Lifecycle(state='\\xe9', message='')\n")


def test_a_reader_that_has_seen_enough():
    lines = b'{"type":"ping"}\n' * 100_000
    process = subprocess.Popen(
        [sys.executable, "-m", "stereos_proto"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        process.stdout.close()
        try:
            process.stdin.write(lines)
            process.stdin.close()
        except BrokenPipeError:
            pass
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_broken_pipe_is_quiet(run, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def close(self):
            super().close()
            raise BrokenPipeError

    gone = Gone()
    monkeypatch.setattr(sys, "stdout", gone)
    monkeypatch.setattr(sys, "stdin", Stdin(b'{"type":"ping"}\n'))
    assert main([]) == 0
    assert gone.closed


def test_a_wide_terminal_is_told_to_go_on(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stdin", Stdin('{"type":"é"}'.encode()))
    assert main([]) == 0
    assert stdout.buffer.getvalue() == b"CustomRequest(type='\\xe9')\n"
