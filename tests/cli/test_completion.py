"""What Tab offers: the answers themselves, and each shell with its own script, on a terminal where it needs one."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest
from cyclopts.help import HelpEntry

from cli.fleets import keep_state
from cli_harness import CLEAN_ENV, plain, resize, run_cli
from stereos_proto import AgentStatus
from stereos_proto_io.cli._complete import Found, Words, completions
from stereos_proto_io.cli._shell import _candidates, _words
from stereos_proto_io.cli._tree import ALIASES, COMMANDS, make_app
from stereos_proto_io.guest.faults import FAULTS
from stereos_proto_io.testing import simulated_guest

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def machines(tmp_path, monkeypatch):
    for name in ("web-1", "web-2", "db"):
        place = tmp_path / "mb" / "vms" / name
        place.mkdir(parents=True)
        (place / "state.json").write_text(json.dumps({"backend": "qemu", "vsock_port": 0}))
    monkeypatch.setenv("MB_CONFIG_DIR", str(tmp_path / "mb"))
    return tmp_path / "mb"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hea", {"health"}),
        ("stat", {"status"}),
        ("help wai", {"wait"}),
        ("secret ", {"set"}),
        ("status --ti", {"--timeout"}),
        ("mount a /b --fs ", {"9p", "virtiofs"}),
        ("mount --read", {"--read-only"}),
        ("health --no", set()),
        ("health --vm web", {"web-1", "web-2"}),
        ("health --vm web-1 --vm d", {"db"}),
        ("ls w", {"web-1", "web-2"}),
        ("watch --all --look d", {"db"}),
        ("ping --all --state heal", {"healthy"}),
        ("health --state ", {"booting", "ready", "healthy", "degraded", "shutdown"}),
        ("ls --state ", {"booting", "ready", "healthy", "degraded", "shutdown", "stopped", "unreachable"}),
        ("list --state s", {"shutdown", "stopped"}),
        ("help ls --state s", {"shutdown", "stopped"}),
        ("health -o js", {"json", "jsonl"}),
        ("wait --for ", {"agent=", "shutdown", *(f"state={s}" for s in ("booting", "degraded", "healthy", "ready"))}
         | {"state=shutdown"}),
        ("wait --for state=re", {"state=ready"}),
        ("simulate --fault ", set(FAULTS)),
        ("provision x.toml --jcard d", {"db="}),
        ("ssh-key add x --user a", {"admin", "agent"}),
        ("watch --sort na", {"name"}),
        ("health ", {"tcp://", "unix://", "vsock://", "serial://", "hvsock://"}),
        ("completion f", {"fish"}),
        ("send mou", {"mount"}),
        ("secret set NAME tc", {"tcp://"}),
        ("ping --frob ", {"tcp://", "unix://", "vsock://", "serial://", "hvsock://"}),
        ("health --vm=we", {"--vm=web-1", "--vm=web-2"}),
        ("health --output=js", {"--output=json", "--output=jsonl"}),
        ("health -o=js", {"-o=json", "-o=jsonl"}),
        ("mount a /b --fs=", {"--fs=9p", "--fs=virtiofs"}),
        ("wait --for=state=re", {"--for=state=ready"}),
        ("provision x.toml --jcard=d", {"--jcard=db="}),
        ("health --json=", set()),
        ("health --frob=", set()),
    ],
)  # fmt: skip
def test_words(line, words, machines):
    *begun, text = line.split(" ")
    assert completions(make_app(), Words(begun, text)) == Found(tuple(sorted(words)))


@pytest.mark.parametrize(
    "line",
    [
        *("provision ", "provision jc", "provision --jcard db=", "config set ", "ssh-key add ", "decode ", "replay "),
        *("demo ", "secret set A --file ", "record x", "conformance --junit ", "health --config-dir "),
        *("provision --ssh-key ", "provision --journal=", "provision --jcard=db=j"),
    ],
)
def test_files_are_left_to_the_shell(line, machines):
    *begun, text = line.split(" ")
    assert completions(make_app(), Words(begun, text)) == Found(files=True)


#: Names that a shell would run, split or expand, or take for an option.
UNSAFE = ("x$(touch PWN)", "x`touch PWN`", "web 1", "*", "a;b", "it's", 'a"b', "a\\b", "~root", "é", "a\nb", "e\x1bvil")


def test_a_name_that_a_shell_would_not_read_as_itself_is_not_offered(machines):
    for name in UNSAFE:
        keep_state(machines, name, "{}")
    for line in ("health --vm ", "ls ", "watch --look "):
        *begun, text = line.split(" ")
        assert completions(make_app(), Words(begun, text)).words == ("db", "web-1", "web-2")
    assert completions(make_app(), Words(["provision", "--jcard"], "")).words == ("db=", "web-1=", "web-2=")
    names = (*UNSAFE, "coder", "a.b_c-d@e+f,g:h/i=j%k")
    with simulated_guest(agents=[AgentStatus(name, True) for name in names]) as guest:
        found = completions(make_app(), Words(["wait", str(guest.address), "--for"], "agent="))
    assert found.words == ("agent=a.b_c-d@e+f,g:h/i=j%k", "agent=coder")


@pytest.mark.parametrize("named", ["address", "machine", "machine=", "folder", "folder="])
def test_agents_are_those_of_the_guest(named, tmp_path, monkeypatch):
    agents = [AgentStatus("coder", True), AgentStatus("tester", False), AgentStatus("e\x1bvil", True)]
    with simulated_guest(agents=agents) as guest:
        place = tmp_path / "vms" / "dev"
        place.mkdir(parents=True)
        (place / "state.json").write_text(json.dumps({"backend": "qemu", "vsock_port": guest.address.port}))
        monkeypatch.setenv("MB_CONFIG_DIR", str(tmp_path / "nowhere" if "folder" in named else tmp_path))
        which = {
            "address": [str(guest.address)],
            "machine": ["--vm", "dev"],
            "machine=": ["--vm=dev"],
            "folder": ["--config-dir", str(tmp_path), "--vm", "dev"],
            "folder=": [f"--config-dir={tmp_path}", "--vm=dev"],
        }[named]
        found = completions(make_app(), Words(["wait", *which, "--for"], "agent="))
        assert found == Found(("agent=coder", "agent=tester"))
    assert completions(make_app(), Words(["wait", *which, "--for"], "agent=")) == Found(), "when it is gone"


def test_the_shell_of_stereosctl_completes(tmp_path, machines, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jcard.toml").touch()
    (tmp_path / "my file.toml").touch()
    (tmp_path / "folder").mkdir()
    app = make_app()
    assert _candidates(app, "", "he") == ["health ", "help "]
    assert _candidates(app, "", "ex") == ["exit "]
    assert _candidates(app, "secret ", "") == ["set "]
    assert _candidates(app, "provision ", "jc") == ["jcard.toml "]
    assert _candidates(app, "provision ", "my") == ["my\\ file.toml "]
    assert _candidates(app, "provision ", "my\\ f") == ["my\\ file.toml "]
    assert _candidates(app, "provision ", "fo") == ["folder/"]
    assert _candidates(app, "provision ", "./fo") == ["./folder/"]
    assert _candidates(app, "provision ", "folder/") == []
    assert _candidates(app, "provision ", f"{tmp_path}/jc") == [f"{tmp_path}/jcard.toml "]
    assert _candidates(app, "provision ", "nowhere/") == []
    assert _candidates(app, "wait --for ", "ag") == ["agent="]
    assert _candidates(app, "provision ", "--journal=my") == ["--journal=my\\ file.toml "]
    assert _candidates(app, "provision ", "--jcard=web-1=fo") == ["--jcard=web-1=folder/"]
    assert _candidates(app, "provision --jcard ", "web-1=jc") == ["web-1=jcard.toml "]
    assert _candidates(app, "provision ' ", "x") == []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert _candidates(app, "provision ", "~/jc") == ["~/jcard.toml "]
    assert _candidates(app, "provision ", "--journal=~/jc") == []
    assert _candidates(app, "provision ", "~nobody at all/") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("~", ["/home/me too"]),
        ("a ~/b/~ c", ["a", "/home/me too/b/~", "c"]),
        ("~/'b c'", ["/home/me too/b c"]),
        ("~root/b ~no-such-user/b", [f"{Path('~root').expanduser()}/b", "~no-such-user/b"]),
        ("a~ a/~ ~~", ["a~", "a/~", "~~"]),
        (r"""'~/b' "a ~/b" "\" ~/b" \~/b ""~""", ["~/b", "a ~/b", '" ~/b', "~/b", "~"]),
        (
            r"""a\ ~/b a\=~/b --f=~/b a=b=~/c ~"root"/b ~'/b'""",
            ["a ~/b", "a=~/b", "--f=~/b", "a=b=~/c", "~root/b", "~/b"],
        ),
        ("a # 'b ~", ["a"]),
        ("a#b 'a'#b \\#b '#' \"\"#b", ["a#b", "a#b", "#b", "#", "#b"]),
        (r"""'a\b' "a\b\\c\"d\$e\`f" a\b\\""", ["a\\b", 'a\\b\\c"d$e`f', "ab\\"]),
        ("a '' \"\" b''", ["a", "", "", "b"]),
        (" \t a  b\t", ["a", "b"]),
        ("a\u00a0b", ["a\u00a0b"]),
        (r"'|' \| a';' '2>'x", ["|", "|", "a;", "2>x"]),
    ],
)
def test_the_shell_of_stereosctl_reads_a_line_as_bash_does(line, words, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me too")
    assert _words(line) == words
    bash = [shell_of("bash"), "--norc", "--noprofile", "-c", f"printf '%s\\0' {line}"]
    assert subprocess.run(bash, check=True, capture_output=True, text=True).stdout.split("\0") == [*words, ""]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a 'b", "a quotation mark in it is not closed"),
        ('a "b\\"', "a quotation mark in it is not closed"),
        ('a "b\\', "a quotation mark in it is not closed"),
        ("a b\\", "nothing follows the backslash"),
        ("health | grep x", r"there are no pipes, lists and redirections here; quote a \| that means itself"),
        ("ping && ping", "there are no pipes"),
        ("ping >", "there are no pipes"),
    ],
)
def test_a_line_that_the_shell_of_stereosctl_cannot_read(line, why):
    with pytest.raises(ValueError, match=why):
        _words(line)


def test_a_line_of_the_shell_is_read_in_one_pass():
    line = "=~" * 200_000
    assert _words(f"{line}''") == [line]


def test_an_answer_is_lines_for_a_script(machines, monkeypatch):
    assert run_cli(
        monkeypatch, "__complete", "words", "health", "--vm", "w", env={"MB_CONFIG_DIR": str(machines)}
    ).out == ("words\nweb-1\nweb-2\n")
    assert run_cli(monkeypatch, "__complete", "line", "stereosctl provision 'a b").out == "files\n"
    assert run_cli(monkeypatch, "__complete", "line", "stereosctl status --timeo").out == "words\n--timeout\n"
    assert "health" in run_cli(monkeypatch, "__complete", "line", "stereosctl ").out.split()
    for words in (("words", "health", "-"), ("line", "stereosctl health -")):
        offered = run_cli(monkeypatch, "__complete", *words).out.split()
        assert {"words", "--json", "--help"} <= set(offered), "a - is not standard input yet"
    assert set(run_cli(monkeypatch, "__complete", "words", "").out.split()[1:]) == {
        *(name.split()[0] for name in COMMANDS),
        *ALIASES,
        "help",
    }


# --------------------------------------------------------------------------------------------- real shells


def shell_of(name):
    """The path of a shell. In CI each is installed."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"there is no {name} on this machine (apt install {name})"
        )
    return path


@pytest.fixture
def place(tmp_path, machines, monkeypatch):
    """A folder with files, a `stereosctl` on the PATH, and the scripts of the shells."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "stereosctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m stereos_proto_io.cli "$@"\n')
    (bin_ / "stereosctl").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("jcard.toml", "my first.toml", "it's$HOME.toml"):
        (work / name).touch()
    for shell in SHELLS:
        (tmp_path / shell).write_text(run_cli(monkeypatch, "completion", shell).out)
    return tmp_path


def environment(place):
    return {
        **CLEAN_ENV,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "MB_CONFIG_DIR": str(place / "mb"),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "HOME": str(place),
        "XDG_CONFIG_HOME": str(place),
        "XDG_DATA_HOME": str(place),
        "PS1": "prompt> ",
        "INPUTRC": "/dev/null",
    }


#: What is typed before Tab, and what the line is then, up to the blank or not.
TYPED = [
    ("stereosctl heal", "stereosctl health "),
    ("stereosctl mount --rea", "stereosctl mount --read-only "),
    ("stereosctl secret se", "stereosctl secret set "),
    ("stereosctl mount a /b --fs virt", "stereosctl mount a /b --fs virtiofs "),
    ("stereosctl ping --vm d", "stereosctl ping --vm db "),
    ("stereosctl ping --vm=d", "stereosctl ping --vm=db "),
    ("stereosctl wait --for state=deg", "stereosctl wait --for state=degraded "),
    ("stereosctl provision jc", "stereosctl provision jcard.toml "),
    ("stereosctl provision --jcard db=jc", "stereosctl provision --jcard db=jcard.toml "),
    ("stereosctl provision --jcard=db=jc", "stereosctl provision --jcard=db=jcard.toml "),
    ("stereosctl provision --journal=jc", "stereosctl provision --journal=jcard.toml "),
    ("stereosctl provision my", "stereosctl provision my\\ first.toml "),
    ("stereosctl provision it", "stereosctl provision it\\'s\\$HOME.toml "),
]


@contextmanager
def bash(place, *setup):
    """The master of a terminal with a bash that completes, in the folder with the files."""
    master, slave = pty.openpty()
    resize(slave, 200)
    script = "; ".join([f"source {place}/bash", f"cd {place}/work", *setup, "echo READ''Y\n"])
    with subprocess.Popen(
        [shell_of("bash"), "--norc", "--noprofile", "-i"],
        stdin=slave, stdout=slave, stderr=slave, env=environment(place), start_new_session=True,
    ) as process:  # fmt: skip
        os.close(slave)
        try:
            os.write(master, script.encode())
            read_until(master, "READY\nprompt> ")
            yield master
        finally:
            process.kill()
            os.close(master)


@pytest.mark.parametrize(("typed", "line"), TYPED)
def test_bash_completes(typed, line, place):
    with bash(place) as master:
        os.write(master, f"{typed}\t".encode())
        read_until(master, line)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("stereosctl wait --for agent=", "stereosctl wait --for agent=coder "),
        ("stereosctl wait --for 'agent=", "stereosctl wait --for 'agent=coder' "),
        ('stereosctl wait --for "agent=c', 'stereosctl wait --for "agent=coder" '),
        ('stereosctl wait --for agent="c', 'stereosctl wait --for agent="coder" '),
    ],
)
def test_what_a_guest_calls_its_agents_is_not_run_by_bash(typed, line, place):
    """Whatever the command says that a word may become: here it says it itself, and the script is what refuses."""
    names = [name for name in UNSAFE if name.isprintable() and name.isascii()]
    words = "\n".join(["words", *(f"agent={name}" for name in names), "agent=coder"])
    (place / "answer").write_text(f"{words}\n")
    (place / "bin" / "stereosctl").write_text(f'#!/bin/sh\ntest "$1" = __complete && cat {place}/answer\n')
    (place / "work" / "agent=file").touch()
    with bash(place) as master:
        os.write(master, f"{typed}\t".encode())
        read_until(master, line)
        os.write(master, b"\necho DO''NE\n")
        read_until(master, "DONE")
    assert not (place / "work" / "PWN").exists()


def test_bash_may_end_words_elsewhere(place):
    with bash(place, "COMP_WORDBREAKS=' '") as master:
        os.write(master, b"stereosctl wait --for state=deg\t")
        read_until(master, "stereosctl wait --for state=degraded ")


def read_until(master, text):
    seen = ""
    while text not in plain(seen).replace("\x07", ""):
        assert select.select([master], [], [], 20)[0], seen
        seen += os.read(master, 65536).decode("utf-8", "replace")


@pytest.mark.parametrize(("typed", "line"), TYPED)
def test_fish_completes(typed, line, place):
    code = f"source {place}/fish; complete -C '{typed}'"
    done = subprocess.run(
        [shell_of("fish"), "-c", code],
        capture_output=True,
        text=True,
        cwd=place / "work",
        env=environment(place),
        check=True,
    )
    found = [row.split("\t")[0] for row in done.stdout.splitlines()]
    # fish escapes the word when it writes it into the line.
    assert found == [re.sub(r"\\(.)", r"\1", line.strip().split(" ", typed.count(" "))[-1])]


#: zsh completes on a terminal only. It says READY before Tab is pressed, and the script waits for what comes of that.
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'fpath=($PWD/functions $fpath); autoload -Uz compinit; compinit -u -D; PS1=; unsetopt promptsp beep'
zpty -w shell 'cd work; {how}; echo READ''Y'
zpty -r shell out '*READY*'
zpty -w -n shell '{typed}'$'\\t'
zpty -r shell out '*{found}*'
"""


@pytest.mark.parametrize("how", ["true", "source ../functions/_stereosctl"])
@pytest.mark.parametrize(("typed", "line"), TYPED)
def test_zsh_completes(typed, line, how, place):
    zsh = shell_of("zsh")
    (place / "functions").mkdir()
    (place / "functions" / "_stereosctl").write_text((place / "zsh").read_text())
    last = line.strip().split(" ", typed.count(" "))[-1]
    # A pattern, in single quotes.
    found = last.replace("\\", "\\\\").replace("'", "'\\''")
    # It waits for ever for what does not come.
    subprocess.run(
        [zsh, "-f", "-c", ZSH.format(how=how, typed=typed, found=found)],
        cwd=place, env=environment(place), check=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_are_files_of_the_package(shell, monkeypatch):
    result = run_cli(monkeypatch, "completion", shell)
    assert result.code == 0
    assert "stereosctl __complete" in result.out


# ---------------------------------------------------------------------------------------------- the man page

ROOT = Path(__file__).parents[2]


#: Those of cyclopts 4 do not say what an option takes.
HELP_SAYS_ALL = hasattr(HelpEntry, "display_labels_with_metavar")


@pytest.mark.skipif(not HELP_SAYS_ALL, reason="the help of this cyclopts does not say what an option takes")
def test_the_man_page_says_what_the_commands_say():
    made = subprocess.run(
        [sys.executable, "-c", "import make_man; print(make_man.page(), end='')"],
        capture_output=True,
        text=True,
        cwd=ROOT / "tools",
        check=True,
    )
    assert (ROOT / "docs" / "man" / "stereosctl.1").read_text() == made.stdout, "run tools/make_man.py"


def paragraphs(command):
    """What the man page says of each argument and option of a command."""
    page = (ROOT / "docs" / "man" / "stereosctl.1").read_text().replace("\\-", "-")
    section = page.partition(f"\n.SS {command}\n")[2].partition("\n.S")[0]
    tagged = (each.partition("\n") for each in section.split("\n.TP\n.B ")[1:])
    return {name: text for name, _, text in tagged}


def test_the_man_page_says_what_an_option_takes_and_what_its_default_is():
    assert paragraphs("provision")["FILE"].startswith("The jcard.toml for guests")
    assert paragraphs("provision")["--fs CHOICE"].endswith("[choices: 9p, virtiofs] [default: 9p]")
    assert paragraphs("provision")["--max-failures N"]
    assert paragraphs("secret set")["NAME"].endswith("[required]")
    assert paragraphs("ping")["--interval, -i DURATION"].endswith("[default: 1 s]")
    assert paragraphs("ping")["ADDRESS, --address"].startswith("tcp://HOST:PORT")


@pytest.mark.skipif(not HELP_SAYS_ALL, reason="the help of this cyclopts does not say what an option takes")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_man_page_lacks_nothing_that_the_help_has(command, monkeypatch):
    lines = plain(run_cli(monkeypatch, *command.split(), "--help", columns=1000).out).splitlines()
    # A row has its names, two blanks at least, and what it says.
    rows = [re.split(r"  +", line.strip("│ *").strip(), maxsplit=1) for line in lines if line.startswith("│")]
    said = paragraphs(command)
    assert {names: text.replace("`", "") for names, text in rows} == {
        name.replace(",", ""): text.strip().replace("\\&", "") for name, text in said.items()
    }


def test_the_wheel_brings_scripts_and_page_where_shells_look():
    shared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "shared-data"
    ]
    assert set(shared.values()) == {
        "share/bash-completion/completions/stereosctl",
        "share/zsh/site-functions/_stereosctl",
        "share/fish/vendor_completions.d/stereosctl.fish",
        "share/man/man1/stereosctl.1",
    }
    assert all((ROOT / path).is_file() for path in shared)
