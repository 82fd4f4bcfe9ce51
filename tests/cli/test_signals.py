"""Signals as a shell expects them, in the hands of a real one; and a terminal that is as it was before."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from cli.fleets import keep_guest
from cli_harness import CLEAN_ENV, COMMAND, LIMITED_ENV, PATIENCE, piped, plain, resize, terminal
from interrupts import with_signals_elsewhere
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli import _signals
from stereos_proto_io.cli._console import Output
from stereos_proto_io.cli._signals import heartbeat, unless_closed
from stereos_proto_io.testing import simulated_guest
from waiting import until

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


class Bash:
    """A bash with job control, on a terminal, in which `stereosctl` is the command of this tree."""

    def __init__(self, master):
        self._master = master
        self.seen = ""

    def type(self, text):
        os.write(self._master, text.encode())

    def wait_for(self, text):
        while text not in plain(self.seen):
            assert select.select([self._master], [], [], 30)[0], self.seen
            self.seen += os.read(self._master, 65536).decode("utf-8", "replace")

    def run(self, line, *shown):
        """Type a line, and wait for each of what it shows."""
        self.seen = ""
        self.type(f"{line}\n")
        for text in shown:
            self.wait_for(text)


@contextmanager
def bash(folder):
    path = shutil.which("bash")
    if path is None:
        pytest.skip("there is no bash on this machine")
    (folder / "stereosctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m stereos_proto_io.cli "$@"\n')
    (folder / "stereosctl").chmod(0o755)
    env = {
        **CLEAN_ENV,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PS1": "prompt> ",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "XDG_STATE_HOME": str(folder),
        "INPUTRC": "/dev/null",
    }
    master, slave = pty.openpty()
    resize(slave, 200)
    # The first terminal that a session's leader opens becomes the session's, and job control needs one.
    script = 'exec <>"$0" >"$0" 2>&1; exec "$@"'
    with subprocess.Popen(
        ["/bin/sh", "-c", script, os.ttyname(slave), path, "--norc", "--noprofile", "-i"],
        env=env,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        it = Bash(master)
        try:
            it.wait_for("prompt> ")
            yield it
        finally:
            process.kill()
            os.close(master)
            os.close(slave)


def test_ctrl_c_ends_the_loop_of_a_shell(tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, bash(tmp_path) as it:
        command = f"stereosctl wait {guest.address} --for agent=nobody"
        it.run(f"for n in 1 2 3; do echo turn $n; {command}; done; echo O''VER", "turn 1", "waiting for")
        it.type("\x03")
        it.wait_for("interrupted")
        it.run("echo n''ext", "next")
        assert "turn 2" not in plain(it.seen)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("guests", [1, 2])
def test_a_signal_that_does_not_interrupt_the_wait_ends_the_command_all_the_same(guests, number, tmp_path):
    with ExitStack() as stack:
        addresses = [UnixSocket(tmp_path / f"{index}") for index in range(guests)]
        deaf = [stack.enter_context(simulated_guest(address, faults=["stall@get_health"])) for address in addresses]
        words = ("health", *(str(guest.address) for guest in deaf), "--timeout", "300")
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", with_signals_elsewhere("stereos_proto_io.cli"), *words],
                env=CLEAN_ENV,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(process.kill)
        until(lambda: all(guest.simulator.requests for guest in deaf), process)
        process.send_signal(number)
        assert process.wait(60) == -number


#: Runs a command that gets a signal in a place whose exceptions Python, or the library in use, discards; then it waits.
LOST = """
import gc, os, signal, sys, weakref
from threading import Event
from stereos_proto_io.cli._errors import INTERRUPTED, Stopped
from stereos_proto_io.cli._signals import as_process
place, number = sys.argv[1], int(sys.argv[2])
class Thing:
    pass
def get_signal(*_):
    os.kill(os.getpid(), number)
    # The handler runs between these.
    for _ in range(100):
        pass
def run():
    if place == "weakref":
        thing = Thing()
        reference = weakref.ref(thing, get_signal)
        del thing
    else:
        try:
            get_signal()
        except BaseException:
            pass
    print("lost", flush=True)
    try:
        Event().wait()
    except Stopped:
        raise
    except KeyboardInterrupt:
        return INTERRUPTED
sys.exit(as_process(run))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["weakref", "except"])
def test_an_interruption_that_is_discarded_comes_again(place, number):
    with subprocess.Popen(
        [sys.executable, "-c", LOST, place, str(int(number))],
        env=CLEAN_ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "lost\n"
            assert process.wait(PATIENCE) == -number
        finally:
            process.kill()


def test_an_interruption_that_was_caught_does_not_come_again():
    """The prompt of the shell goes on after Ctrl-C."""
    interruptions = _signals._Interruptions()
    for catch, number in ((True, signal.SIGINT), (False, signal.SIGINT), (False, signal.SIGTERM)):
        with suppress(KeyboardInterrupt):
            interruptions(number, None)
        if catch:
            interruptions.caught()
            interruptions.again()
        else:
            with pytest.raises(KeyboardInterrupt):
                interruptions.again()
        interruptions._when = -1e9


def test_an_interruption_under_way_does_not_come_again():
    interruptions = _signals._Interruptions()
    with suppress(KeyboardInterrupt):
        try:
            interruptions(signal.SIGINT, None)
        finally:
            interruptions.again()


def test_there_is_no_heartbeat_outside_the_main_thread():
    """In another thread no handler can be set."""

    def run():
        with heartbeat():
            seen.extend(each.name for each in threading.enumerate())

    seen = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen
    assert "heartbeat" not in seen


def test_a_timer_of_the_program_that_started_the_command_is_left_alone():
    """As of `perl -e 'alarm 2; exec @ARGV'`."""
    done = subprocess.run(
        [*COMMAND, "simulate"],
        env=LIMITED_ENV,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        # It outlives the exec, its handler does not. So late that the command runs by then.
        preexec_fn=lambda: signal.setitimer(signal.ITIMER_REAL, 1.5),
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == -signal.SIGALRM


def test_ctrl_c_ends_a_watch_and_the_script_goes_on(tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, bash(tmp_path) as it:
        it.run(f"stereosctl watch {guest.address}; echo code $?.", "Ctrl-C ends this.")
        it.type("\x03")
        it.wait_for("code 0.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["wait @ --for agent=nobody", "watch @", "secret set A @", "ping DEAF"])
def test_a_terminated_command_leaves_the_terminal_as_it_was(command, number, tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g"), faults=["stall@ping"]) as guest:
        words = [str(guest.address) if word in ("@", "DEAF") else word for word in command.split()]
        with terminal(*words) as it:
            shown = {"wait": "waiting for", "watch": "Ctrl-C ends this.", "secret": "not shown"}.get(words[0])
            if shown:
                it.wait_for(shown)
            else:
                until(lambda: guest.simulator.requests, it.process)
            it.process.send_signal(number)
            assert it.end() == (0 if words[0] == "watch" else -number)
    assert it.seen.rfind(SHOW) >= it.seen.rfind(HIDE)
    assert it.seen.count("\x1b[?1049h") == it.seen.count("\x1b[?1049l")
    assert "Traceback" not in it.seen


#: Runs stereosctl on a terminal of its own, its stderr in a file where one is named, and closes the terminal. A command
#: that hangs is killed.
HUNG_UP = """
import os, pty, signal, sys
err, shown, *words = sys.argv[1:]
pid, master = pty.fork()
if not pid:
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2) if err else None
    os.execv(sys.executable, [sys.executable, "-m", "stereos_proto_io.cli", *words])
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.alarm(50)
seen = b""
while shown.encode() not in seen:
    seen += os.read(master, 65536)
os.close(master)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


#: A command, what it shows once it waits, and its exit code; those of the first have nothing on stderr then.
HANGING_UP = [
    ("watch @", "Ctrl-C ends this.", 0),
    ("watch @ @2", "Ctrl-C ends", 0),
    ("ls -w", "Ctrl-C ends", 0),
    ("simulate", "tcp://", 0),
    ("record FILE @", "tcp://", 0),
]
HANGING_UP_ON_STDERR = [
    ("secret set A @", "not shown", -signal.SIGHUP),
    ("wait @ --for agent=nobody", "waiting for", -signal.SIGHUP),
    ("wait @ @2 --for agent=nobody", "waiting", -signal.SIGHUP),
]


@pytest.mark.parametrize(
    ("command", "shown", "code", "err"),
    [
        *((*each, False) for each in (*HANGING_UP, *HANGING_UP_ON_STDERR)),
        *((*each, True) for each in HANGING_UP),
    ],
)
def test_a_terminal_that_is_closed_ends_the_command_by_its_signal(command, shown, code, err, tmp_path):
    errors = tmp_path / "err"
    with ExitStack() as stack:
        guests = {f"@{n}": stack.enter_context(simulated_guest(UnixSocket(tmp_path / f"g{n}"))) for n in ("", "2")}
        guest = stack.enter_context(simulated_guest())
        keep_guest(tmp_path, "dev", guest.address)
        keep_guest(tmp_path, "other", guest.address)
        places = {**{name: str(each.address) for name, each in guests.items()}, "FILE": str(tmp_path / "t")}
        words = [places.get(word, word) for word in command.split()]
        done = subprocess.run(
            [sys.executable, "-c", HUNG_UP, str(errors) if err else "", shown, *words],
            env={**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (done.stdout, done.stderr) == (f"{int(code)}\n", "")
    assert not errors.exists() or "Traceback" not in errors.read_text()


def test_nothing_but_a_closed_terminal_is_tolerated():
    master, slave = pty.openpty()
    modes = termios.tcgetattr(slave)
    os.close(master)
    with unless_closed():
        termios.tcsetattr(slave, termios.TCSADRAIN, modes)
    os.close(slave)
    with Path(os.devnull).open() as file, pytest.raises(termios.error), unless_closed():
        termios.tcsetattr(file.fileno(), termios.TCSADRAIN, modes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("command", ["simulate --listen unix:///P", "record F tcp://127.0.0.1:1 --listen unix:///P"])
def test_what_listens_ends_well_and_leaves_no_socket(command, number, tmp_path):
    words = command.replace("/P", f"{tmp_path}/p").replace("F", str(tmp_path / "f")).split()
    with piped(*words) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == 0
    assert not (tmp_path / "p").exists()


def test_a_command_that_is_stopped_lends_the_terminal(tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, bash(tmp_path) as it:
        it.run(f"stereosctl watch {guest.address}", "Ctrl-C ends this.")
        it.type("\x1a")
        it.wait_for("Stopped")
        stopped = it.seen
        assert stopped.rfind(SHOW) > stopped.rfind(HIDE), "the cursor is there"
        assert stopped.rfind("\x1b[?1049l") > stopped.rfind("\x1b[?1049h"), "and so is the shell's screen"
        it.run("fg", "Ctrl-C ends this.")
        assert it.seen.rfind(HIDE) > it.seen.rfind(SHOW)
        it.type("\x03")
        it.wait_for("prompt> ")


def test_a_hidden_prompt_stays_hidden_over_ctrl_z(tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, bash(tmp_path) as it:
        it.run(f"stereosctl secret set TOKEN {guest.address}", "(not shown): ")
        it.type("fir\x1a")
        it.wait_for("Stopped")
        it.run("stty -a | grep -o ' echo '", " echo ")
        it.run("fg", "(not shown): ")
        it.type("s3cret-value\n")
        it.wait_for("✓ secret TOKEN")
        assert "s3cret" not in it.seen
        assert guest.simulator.secrets["TOKEN"].value == "s3cret-value"
        it.run("stty -a | grep -o ' echo '", " echo ")


def test_ctrl_d_at_a_hidden_prompt_gives_no_secret(tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        with terminal("secret", "set", "TOKEN", str(guest.address)) as it:
            it.wait_for("(not shown): ")
            it.type("\x04")
            assert it.end() == 2
        assert "stereosctl: no secret given" in plain(it.seen)
        assert "Traceback" not in it.seen
        with terminal("shell", str(guest.address), env={"XDG_STATE_HOME": str(tmp_path)}, columns=200) as it:
            it.wait_for("g> ")
            it.type("secret set TOKEN\n")
            it.wait_for("(not shown): ")
            it.type("\x04")
            it.wait_for("no secret given")
            it.type("ping\n")
            it.wait_for("pong from")
            it.type("exit\n")
            assert it.end() == 0
        assert guest.simulator.secrets == {}


def test_the_shell_goes_back_to_its_prompt(tmp_path):
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        terminal("shell", str(guest.address), env={"XDG_STATE_HOME": str(tmp_path)}, columns=200) as it,
    ):
        it.wait_for("g> ")
        it.type("wait --for agent=nobody\n")
        it.wait_for("waiting for")
        it.interrupt()
        it.wait_for("interrupted")
        it.type("help wait\n")
        it.wait_for("Usage: stereosctl wait")
        it.type("exit\n")
        assert it.end() == 0


@pytest.mark.parametrize("signals", [1, 2, 10_000])
def test_a_signal_that_comes_while_it_is_handled_is_handled_after_that(signals):
    """A window that is dragged sends more of them than a screen is drawn in that time."""
    depth, deepest, done = 0, 0, 0

    def draw():
        nonlocal depth, deepest, done
        depth, done = depth + 1, done + 1
        deepest = max(deepest, depth)
        if done < signals:
            handler()
        depth -= 1

    handler = _signals._OneAtATime(draw)
    handler()
    assert (deepest, done) == (1, signals)


def test_a_screen_is_not_drawn_within_its_drawing(monkeypatch):
    """For a change of the terminal's size, and when the process goes on."""
    with Path(os.devnull).open("w") as file:
        console = Output(file=file)
        left, nested = 0, 0
        drawing_now = False

        def draw():
            nonlocal left, nested, drawing_now
            nested += drawing_now
            before, drawing_now = drawing_now, True
            if left:
                left -= 1
                for number in (signal.SIGWINCH, signal.SIGCONT):
                    os.kill(os.getpid(), number)
            drawing_now = before
            return ""

        with _signals.drawing(draw, console, moving=False):
            left = 50
            os.kill(os.getpid(), signal.SIGWINCH)
            os.kill(os.getpid(), signal.SIGCONT)
    assert left == 0
    assert nested == 0
