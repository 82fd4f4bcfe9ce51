"""Every exit code, interruption at any moment, readers that go away: never a traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cli_harness import CLEAN_ENV, COMMAND, plain, run_cli, run_process, terminal
from stereos_proto import AgentStatus
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli._errors import EXIT_CODES
from stereos_proto_io.cli._tree import ABSENT, ALIASES, COMMANDS
from stereos_proto_io.testing import simulated_guest

JCARD = '[[shared]]\nguest = "/a"\n[[shared]]\nguest = "/ok"\n'

#: exit code → faults of the guest, and a command that ends in it. `@` is the address, `nobody` one without a guest.
ENDS = {
    "done": (0, [], "ping @"),
    "refused": (1, [], "mount a /etc @ --fs 9p"),
    "refused, as JSON": (1, [], "send nothing @ --json"),
    "an agent does not run": (1, [], "agents @"),
    "a step is refused": (1, ["fail:no@mount#1"], "provision JCARD @"),
    "the guest shuts down while it is waited for": (1, [], "wait SHUTDOWN --timeout 20"),
    "an old guest": (1, ["fail:unknown message type: get_health@get_health"], "wait @ --timeout 20"),
    "no such command": (2, [], "frobnicate @"),
    "no such option": (2, [], "ping @ --frob"),
    "no guest": (2, [], "ping"),
    "half a ping": (2, [], "ping @ -c 1.5"),
    "an address and a machine": (2, [], "ping @ --vm any"),
    "nothing to trace": (2, [], "shell @ -v"),
    "a recording without an end": (2, [], "record FILE @ --timeout 3"),
    "no address": (2, [], "ping 127.0.0.1:1024"),
    "a bad address": (2, [], "ping tcp://127.0.0.1:99999"),
    "a bad deadline": (2, [], "ping @ --timeout 0"),
    "a bad condition": (2, [], "wait @ --for everything"),
    "a boot before it begins": (2, [], "simulate --boot-time -1"),
    "a poll without a pause": (2, [], "simulate --poll-interval 0"),
    "a bad fault": (2, [], "simulate --fault frob"),
    "a file that is not there": (2, [], "provision nowhere.toml @"),
    "a bad jcard": (2, [], "provision BAD @"),
    "too long to be sent": (2, [], "config set LONG @"),
    "no JSON": (2, [], "send x {frob @"),
    "no such machine": (2, [], "health --vm nowhere"),
    "nobody listens": (3, [], "ping nobody"),
    "a connection that is lost": (3, ["cut:0"], "health @"),
    "the doctor finds nobody": (3, [], "doctor nobody"),
    "nonsense comes back": (4, ["garbage@get_health"], "health @"),
    "a reply of another kind": (4, ["wrong-type@mount"], "mount a /a @ --fs 9p"),
    "a line that is too long": (4, ["over-long@ping"], "ping @"),
    "lost after it was sent": (5, ["cut:0"], "mount a /a @ --fs 9p"),
    "a step that was lost": (5, ["drop@mount#1", "power-off@mount#2"], "provision JCARD @"),
    "a change without a reply": (5, ["stall@mount"], "mount a /a @ --fs 9p --timeout 0.3"),
    "a request of any type without a reply": (
        5,
        ["stall@mount"],
        'send mount {"tag":"a","guest_path":"/x","fs_type":"9p"} @ --timeout 0.3',
    ),
    "a step without a reply": (5, ["stall@mount#2"], "provision JCARD @ --timeout 0.5"),
    "a step without a reply after a refusal": (
        5,
        ["fail:no@mount#1", "stall@mount#2"],
        "provision JCARD @ --timeout 0.5",
    ),
    "a step that was answered with nonsense": (5, ["garbage@mount#2"], "provision JCARD @ --timeout 20"),
    "a question of any type without a reply": (124, ["stall@ping"], "send ping @ --timeout 0.2"),
    "a late reply": (124, ["stall@ping"], "ping @ --timeout 0.2"),
    "never ready": (124, ["never-ready"], "wait @ --timeout 0.2"),
    "an agent that never runs": (124, [], "wait @ --for agent=nobody --timeout 0.2"),
    "not ready to be provisioned": (124, ["never-ready"], "provision JCARD @ --timeout 0.2"),
    "it never goes away": (124, [], "wait @ --for shutdown --timeout 0.4"),
    "nobody comes": (124, [], "wait nobody --timeout 0.2"),
    "watching ends": (124, [], "watch @ --timeout 0.2"),
}


@pytest.mark.parametrize(("code", "faults", "command"), ENDS.values(), ids=ENDS)
def test_exit_code(code, faults, command, tmp_path, monkeypatch):
    files = {"JCARD": JCARD, "BAD": "[secrets]\nA = 1", "LONG": "# " + "x" * 2**20}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    places = {name: str(tmp_path / name) for name in files}
    places["nobody"] = f"unix://{tmp_path}/nobody"
    with simulated_guest(UnixSocket(tmp_path / "g"), faults=faults, agents=[AgentStatus("a", False)]) as guest:
        places["@"] = places["SHUTDOWN"] = str(guest.address)
        if "SHUTDOWN" in command:
            guest.simulator.state = "shutdown"
        words = [places.get(word, word) for word in command.split()]
        result = run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)})
    assert result.code == code, result
    assert code == 0 or code == 1 or result.err or command.startswith("doctor")
    assert "Traceback" not in result.all


def test_every_exit_code_has_a_test():
    tested = {code for code, _, _ in ENDS.values()}
    assert {each.code for each in EXIT_CODES} == tested | {130, 141}


def test_exit_codes_are_in_the_help(monkeypatch):
    text = " ".join(run_cli(monkeypatch, "--help").out.split())
    for each in EXIT_CODES:
        assert f"{each.code} {each.meaning}" in text


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("frob", 'there is no command "frob"; see: stereosctl --help'),
        ("umount x", 'there is no command "umount": a guest cannot be asked to unmount: a reboot undoes all mounts'),
        ("heath", 'there is no command "heath", but there is "health"; see: stereosctl --help'),
        ("-v ping", "there is no option -v before a command; see: stereosctl --help"),
        ("watch tcp://127.0.0.1:1 --interval 0", "--interval must be more than 0 seconds, not 0"),
        ("ping --frob", "there is no option --frob; see: stereosctl ping --help"),
        ("ping --cuont 3", "there is no option --cuont, but there is --count; see: stereosctl ping --help"),
        ("decode a b", "unexpected argument 'b'; see: stereosctl decode --help"),
        ("ping -c x", "-c takes a whole number, not 'x'; see: stereosctl ping --help"),
        ("ping -i x", "-i takes a duration such as 1.5, 30s, 2m or 1h30m, not 'x'; see: stereosctl ping --help"),
        ("ping -c", "-c needs a value; see: stereosctl ping --help"),
        ("ping -c 1 -c 2", "-c is given twice; see: stereosctl ping --help"),
        ("mount a", "PATH is missing; see: stereosctl mount --help"),
        ("mount a /b", "--fs is missing; see: stereosctl mount --help"),
        ("mount a /b --fs", "--fs needs a value; see: stereosctl mount --help"),
        ("mount a /b --fs 9P", '--fs takes one of "9p", "virtiofs", not "9P"; see: stereosctl mount --help'),
        ("mount a /b --fs x", '--fs takes one of "9p", "virtiofs", not "x"; see: stereosctl mount --help'),
        ("secret set", "NAME is missing; see: stereosctl secret set --help"),
        (
            "secret set A tcp://h:1 --frob",
            "these arguments do not fit (secrets never stand among them); see: stereosctl secret set --help",
        ),
    ],
)
def test_what_is_wrong_with_the_command_line_is_said_with_what_to_do(command, text, monkeypatch):
    result = run_cli(monkeypatch, *command.split())
    assert (result.code, result.out, result.err) == (2, "", f"stereosctl: {text}\n")


def test_no_command_is_called_absent():
    assert not ABSENT.keys() & {*ALIASES, *(name.split()[0] for name in COMMANDS)}


@pytest.mark.parametrize("condition", ["agent=nobody", "state=degraded"])
def test_a_wait_that_times_out_says_for_what(condition, monkeypatch):
    with simulated_guest() as guest:
        words = ("wait", str(guest.address), "--for", "state=ready", "--for", condition, "--timeout", "0.2")
        result = run_cli(monkeypatch, *words[:2], *words[4:])
        assert f"timed out waiting for {condition}: 0.2 s have passed" in result.err
        both = run_cli(monkeypatch, *words)
        if condition.startswith("agent"):
            assert f"timed out waiting for state=ready, {condition}: 0.2 s have passed" in both.err


def test_a_wait_that_the_guest_ends_has_not_timed_out(monkeypatch):
    with simulated_guest() as guest:
        guest.simulator.state = "shutdown"
        result = run_cli(monkeypatch, "wait", str(guest.address), "--for", "agent=nobody", "--timeout", "60")
    assert (result.code, "stereosctl: stopped waiting for agent=nobody: " in result.err) == (1, True), result


def test_what_went_wrong_is_one_line(tmp_path, monkeypatch):
    result = run_cli(monkeypatch, "ping", f"unix://{tmp_path}/nobody")
    assert result.out == ""
    assert result.err.startswith("stereosctl: cannot connect to unix://")
    assert result.err.count("\n") == 1


@contextmanager
def deaf_guest(path):
    """A socket that takes connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(60)
        yield listener


def deaf_machine(stack, folder):
    """The same, as a virtual machine of mb's."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(60)
    place = folder / "vms" / "deaf"
    place.mkdir(parents=True)
    (place / "state.json").write_text(json.dumps({"backend": "qemu", "vsock_port": listener.getsockname()[1]}))
    return listener


#: Commands that are meant to last until Ctrl-C, so that it is their ordinary end.
ENDED_BY_CTRL_C = {"watch", "simulate", "record"}
#: Commands that last until they are interrupted, and what is on the screen by then.
LASTING = {
    "ping": ("ping @ -c 0 -i 0.01", "#2"),
    "a ping without a reply": ("ping DEAF --timeout 60", ""),
    "wait": ("wait @ --for agent=nobody --timeout 60", "tries"),
    "wait for the end": ("wait @ --for shutdown --timeout 60", "tries"),
    "watch": ("watch @", "Changes"),
    "ls": ("ls --timeout 600", ""),
    "watch, as JSON": ("watch @ --jsonl", "uptime_seconds"),
    "simulate": ("simulate", "tcp://"),
    "record": ("record FILE @", "tcp://"),
    "demo": ("demo", "A guest boots"),
    "a hidden prompt": ("secret set NAME @", "not shown"),
}


@pytest.mark.parametrize(("command", "shown"), LASTING.values(), ids=LASTING)
def test_ctrl_c_is_clean(command, shown, tmp_path):
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        deaf_guest(tmp_path / "deaf") as deaf,
        ExitStack() as stack,
    ):
        places = {"@": str(guest.address), "DEAF": f"unix://{tmp_path}/deaf", "FILE": str(tmp_path / "t.ndjson")}
        if command.startswith("ls"):
            deaf.close()
            deaf = deaf_machine(stack, tmp_path)
        env = {"MB_CONFIG_DIR": str(tmp_path)}
        with terminal(*(places.get(word, word) for word in command.split()), env=env) as process:
            host = None if shown else deaf.accept()[0]
            process.wait_for(shown)
            process.interrupt()
            ends_well = command.split()[0] in ENDED_BY_CTRL_C
            # A process that dies of SIGINT is how a shell knows that its loop is to end, too.
            assert process.end() == (0 if ends_well else -signal.SIGINT)
            assert ("interrupted" in plain(process.seen)) == (not ends_well)
            assert "Traceback" not in process.seen
            if host is not None:
                host.close()


#: Interrupts the command at its n-th import, until nothing is imported any more.
INTERRUPTED = """
import itertools, os, signal, sys
from stereos_proto_io.cli import main
numbers = itertools.count()
moment = int(sys.argv[1])
sys.addaudithook(
    lambda event, _: event == "import" and next(numbers) == moment and os.kill(os.getpid(), signal.SIGINT)
)
sys.exit(main(sys.argv[2:]))
"""


def test_next_to_nothing_is_loaded_before_ctrl_c_is_minded():
    code = "import sys; before = set(sys.modules); import stereos_proto_io.cli; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=CLEAN_ENV, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded <= sys.stdlib_module_names | {"stereos_proto_io"}
    assert "typing" not in loaded, "the slowest of those that might come with it"
    assert {name for name in done.stdout.split() if name.startswith("stereos")} == {
        "stereos_proto_io",
        "stereos_proto_io.cli",
    }


@pytest.mark.parametrize("moment", [0, 1, 2, 5, 10, 20, 50, 100, 150, 200, 250, 300, 400, 500])
def test_ctrl_c_is_clean_while_the_command_is_loaded(moment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(moment), "ping", f"unix://{tmp_path}/nobody"],
        capture_output=True,
        text=True,
        env=CLEAN_ENV,
        check=False,
        timeout=60,
    )
    # -SIGINT is what a shell calls 130; 3 is the command's own end, where it loads fewer modules.
    # Called by a program, main returns 130.
    assert done.returncode in (130, -signal.SIGINT, 3)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["watch @ --jsonl -i 0.001", "ping @ -c 0 -i 0", "--help", "health @ --json"])
def test_a_reader_that_goes_away_is_no_traceback(command, tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        simulator = guest.simulator
        stop = threading.Event()
        # Something has to change, or watching has nothing to write.
        changes = threading.Thread(target=lambda: [setattr(simulator, "state", f"s{n}") for n in until(stop)])
        changes.start()
        try:
            read, write = os.pipe()
            os.close(read)
            words = [str(guest.address) if word == "@" else word for word in command.split()]
            with terminal_less(words, write) as process:
                _, err = process.communicate(timeout=60)
        finally:
            stop.set()
            changes.join()
    assert process.returncode == 141
    assert err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("command", ["--help", "health @", "health @ --json", "ls --json", "agents @", "simulate"])
def test_a_full_disk_is_one_sentence(command, tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g"), agents=[AgentStatus("a", True)]) as guest:
        words = [str(guest.address) if word == "@" else word for word in command.split()]
        with terminal_less(words, os.open("/dev/full", os.O_WRONLY)) as process:
            _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, "stereosctl: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    ("command", "closed", "code"),
    [
        ("health @", ">&-", 2),
        ("health @", "<&- >&-", 2),
        ("health @", "2>&-", 0),
        ("health @", "<&- >&- 2>&-", 2),
        ("ping nobody", "2>&-", 3),
        ("secret set A @", "<&-", 2),
        ("provision - @", "<&-", 2),
        ("shell @", "<&-", 0),
    ],
)
def test_streams_may_be_closed(command, closed, code, tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        places = {"@": str(guest.address), "nobody": f"unix://{tmp_path}/nobody"}
        words = [*COMMAND, *(places.get(word, word) for word in command.split())]
        script = f'"$@" {closed}'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *words], capture_output=True, text=True, env=CLEAN_ENV, check=False, timeout=60
        )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr


def until(stop):
    number = 0
    while not stop.wait(0.001):
        number += 1
        yield number


@contextmanager
def terminal_less(words, out):
    with subprocess.Popen(
        [*COMMAND, *words], stdout=out, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=CLEAN_ENV, text=True
    ) as process:
        os.close(out)
        yield process


def test_without_its_extra_it_says_what_to_install(tmp_path):
    (tmp_path / "cyclopts.py").write_text("raise ModuleNotFoundError(\"No module named 'cyclopts'\", name='cyclopts')")
    result = run_process("ping", env={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])})
    assert result.code == 2
    assert "pip install 'stereos-proto[cli]'" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_loads_no_driver(name):
    code = (
        "import sys; from stereos_proto_io.cli import main; main(sys.argv[1:]); "
        "print([m for m in sys.modules if m.startswith('stereos_proto') or m in ('asyncio', 'trio', 'socket')], "
        "file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *name.split(), "--help"], capture_output=True, text=True, env=CLEAN_ENV, check=True
    )
    loaded = set(eval(done.stderr))
    drivers = {f"stereos_proto_io.{driver}" for driver in ("blocking", "asyncio", "trio", "guest")}
    assert not loaded & (drivers | {"asyncio", "trio"})
    if not name:
        assert not any(module.rpartition(".")[2].startswith("_commands") for module in loaded)
        assert not any(module.split(".")[0] == "stereos_proto" for module in loaded), "it needs nothing of the protocol"
