"""The tree of commands, and what happens around each of them: errors, interruption, a reader that has gone."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from importlib import import_module
from typing import Any, Final

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter
from rich.text import Text

from . import plain_interrupts
from ._console import STDIN, error_console, help_console, open_closed_streams, our_version, say_error, writing
from ._errors import EXIT_CODES, BrokenOutput, OutputFailed, SaidNo, error_document, exit_code

_HELP = """\
See and steer StereOS guests: what the guest itself says, and what it is given.

A guest is named by its address, by `--vm NAME` (a virtual machine of mb's), or by STEREOS_ADDRESS. Many are named
by several of these, by patterns such as `--vm 'web-*'`, or by `--all`. `status` is another word for `health`, and
`list` for `ls`.

For example:

    stereosctl demo
    stereosctl health tcp://127.0.0.1:1024
    stereosctl provision jcard.toml --vm dev
    stereosctl wait --all --for state=healthy --timeout 2m
"""


SEE: Final = Group("See guests", sort_key=1)
STEER: Final = Group("Steer them", sort_key=2)
WIRE: Final = Group("Close to the wire", sort_key=3)
TRY: Final = Group("Without a guest of one's own", sort_key=4)
HERE: Final = Group("This command line", sort_key=5)

OPTIONS: Final = Group("Options", sort_key=0)

#: Every command: where it is, and the first line of its docstring, so that the help need not load it.
COMMANDS: Final[dict[str, tuple[str, str, Group]]] = {
    "ping": ("._commands_ask:ping", "See whether guests answer, and how fast.", SEE),
    "health": ("._commands_ask:health", "Show what guests say of themselves.", SEE),
    "agents": ("._commands_ask:agents", "List the agents of guests.", SEE),
    "wait": ("._wait:wait", "Wait for a state, an agent, or the end.", SEE),
    "watch": ("._watch:watch", "Watch the state and the agents of guests, until Ctrl-C.", SEE),
    "ls": ("._commands_local:ls", "List mb's virtual machines, and what their guests say.", SEE),
    "doctor": ("._doctor:doctor", "Find out why guests cannot be reached.", SEE),
    "provision": ("._provision:provision", "Give guests all that a jcard.toml asks for.", STEER),
    "mount": ("._commands_give:mount", "Mount a folder that the hypervisor shares.", STEER),
    "config set": ("._commands_give:config_set", "Replace the guests' jcard.toml.", STEER),
    "secret set": ("._commands_give:secret_set", "Store a secret in guests.", STEER),
    "ssh-key add": ("._commands_give:ssh_key_add", "Let the owner of a public key log in.", STEER),
    "shutdown": ("._commands_ask:shutdown", "Power guests off.", STEER),
    "send": ("._send:send", "Send a request of any type, and show the reply.", WIRE),
    "record": ("._commands_wire:record", "Stand between hosts and a guest, and write down what they say.", WIRE),
    "replay": ("._replay:replay", "Say to a guest what a recorded host said, and compare the answers.", WIRE),
    "decode": ("._commands_wire:decode", "Show a transcript, or lines of the wire.", WIRE),
    "conformance": ("._commands_simulate:conformance", "Examine whether a guest speaks the protocol.", WIRE),
    "simulate": ("._commands_simulate:simulate", "Be a guest to try things on.", TRY),
    "demo": ("._commands_simulate:demo", "Boot a simulated guest, provision it, look at it, shut it down.", TRY),
    "shell": ("._shell:shell", "Type commands for one guest.", HERE),
    "completion": ("._commands_local:completion", "Print the completion script of a shell.", HERE),
    "version": ("._commands_local:version", "Print the version.", HERE),
}
#: Other words for a command that people try.
ALIASES: Final = {"status": "health", "list": "ls"}
#: Asks for the help of the command that follows it.
HELP: Final = "help"
#: Asks what a word on the command line may become; completion scripts use it.
COMPLETE: Final = "__complete"
#: What other commands are below, and what it is about.
GROUPS: Final[dict[str, str]] = {
    "config": "The guest's jcard.toml.",
    "secret": "Secrets, which the guest keeps in memory.",
    "ssh-key": "Who may log in.",
}

#: How a sentence of the parser's is put here. What is not in the table is said as the parser says it.
_REWORDED: Final = (
    (re.compile(r'Command "[^"]*" parameter (-\S+) requires an argument\.'), r"\1 needs a value"),
    (re.compile(r'Command "[^"]*" parameter (\S+) requires an argument\.'), r"\1 is missing"),
    (re.compile(r"Parameter (\S+) specified multiple times\."), r"\1 is given twice"),
    (re.compile(r"Unused Tokens: \[(.*)\]\."), r"there is no use for \1"),
    (re.compile(r'Invalid value "(.*)" for (\S+)\. Choose from: (.*)\.'), r'\2 takes one of \3, not "\1"'),
    (re.compile(r'Invalid value for (\S+): unable to convert ("[^"]*") into float\.'), r"\1 takes a number, not \2"),
    (re.compile(r"Invalid value for (\S+): it takes"), r"\1 takes"),
    (re.compile(r" Available commands:.*"), ""),
    (re.compile(r'Unknown command "(-.*)"\.'), r"there is no option \1 before a command"),
    (re.compile(r'Unknown command (".*?")\.'), r"there is no command \1."),
    (re.compile(r"Unknown option: (\S+)\."), r"there is no option \1."),
    (re.compile(r"\. Did you mean (.*)\?"), r", but there is \1"),
)


def _epilogue() -> str:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning, _ in EXIT_CODES)
    return f"Exit codes:\n{codes}"


def _help(command: Callable[..., object]) -> str:
    """The docstring of a command without its parameters, each paragraph one line: the terminal wraps it."""
    return _unwrapped((inspect.getdoc(command) or "").partition("\n\nArgs:")[0])


def _unwrapped(text: str) -> str:
    return "\n\n".join(part if part.startswith(" ") else " ".join(part.split("\n")) for part in text.split("\n\n"))


def _usage(name: str, command: Callable[..., object]) -> str:
    words = ["Usage: stereosctl", name]
    parameters = inspect.signature(command).parameters.values()
    for parameter in parameters:
        label, needed = parameter.name.upper(), parameter.default is parameter.empty
        if parameter.name == "guest":
            words.append("[ADDRESS]…" if "Guests" in str(parameter.annotation) else "[ADDRESS]")
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            words.append(label if needed else f"[{label}]")
        elif needed:
            words.append(f"--{parameter.name} {label}")
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters):
        words.append("[OPTIONS]")
    return " ".join(words)


def _default(value: Any) -> str | None:
    """What the help says of a default: nothing of what is off or empty. Every number with a point is seconds."""
    if value is False or value is None or value == ():
        return None
    if isinstance(value, float):
        return f"{value:g} s"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


#: What holds for every argument: an option that is off has no name for being off.
DEFAULT_PARAMETER: Final = Parameter(negative=(), show_default=_default)


def make_app(only: str | None = None) -> App:
    """The tree of commands. With `only`, none but that one is loaded: the others just stand in the help."""
    app = App(
        name="stereosctl",
        help=_unwrapped(_HELP),
        help_epilogue=_epilogue(),
        version=our_version,
        console=help_console(),
        help_format="plaintext",
        group_parameters=OPTIONS,
        default_parameter=DEFAULT_PARAMETER,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
    )
    # What holds for all of them is said once, by `stereosctl --help`.
    groups = {"": app} | {
        name: App(name=name, help=text, help_epilogue="", group=STEER, group_parameters=OPTIONS)
        for name, text in GROUPS.items()
    }
    for name, (place, summary, group) in COMMANDS.items():
        above, _, verb = name.rpartition(" ")
        shown: dict[str, Any] = {"name": verb} if above else {"name": verb, "group": group}
        if only in (None, name.partition(" ")[0]):
            module, _, function = place.partition(":")
            with plain_interrupts():
                command = getattr(import_module(module, __package__), function)
            usage = _usage(name, command)
            groups[above].command(command, help=_help(command), usage=usage, help_epilogue="", **shown)
        else:
            groups[above].command(f"{__package__}{place}", help=summary, **shown)
    for name in GROUPS:
        app.command(groups[name])
    for flag in ("--help", "--version"):
        app[flag].group = HERE
    return app


def run(arguments: Sequence[str], app: App | None = None) -> int:
    """Run a command and return its exit code. What goes wrong is said in one line on stderr.

    With --json there is a JSON document, too, on stdout: programs need not read sentences.
    """
    open_closed_streams()
    with suppress(AttributeError, ValueError):
        # A terminal that cannot show a character gets another one, rather than no output at all.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _run(_in_full(arguments), app)
    except (BrokenOutput, BrokenPipeError):
        _leave_output()
        return exit_code(BrokenOutput()) or 1
    except OutputFailed as exc:
        _leave_output()
        with suppress(BrokenOutput, OutputFailed):
            say_error(str(exc))
        return exit_code(exc) or 1
    except KeyboardInterrupt as exc:
        with suppress(BrokenOutput, OutputFailed, KeyboardInterrupt):
            error_console().print(Text("interrupted", "dim"))
        return exit_code(exc) or 1


def _in_full(arguments: Sequence[str]) -> list[str]:
    """The command line without what is only another way to write it: aliases, `help COMMAND`, `-`."""
    words = [STDIN if word == "-" else word for word in arguments]
    if words[:1] == [HELP]:
        words = [*words[1:], "--help"]
    return [ALIASES.get(words[0], words[0]), *words[1:]] if words else words


def _run(words: Sequence[str], app: App | None) -> int:
    if words[:1] == [COMPLETE]:
        from ._complete import answer  # noqa: PLC0415  (only completion scripts ask)

        return answer(words[1:], make_app)
    try:
        result: Any = (app or make_app(_first(words)))(words)
        with writing():
            sys.stdout.flush()
    except (KeyboardInterrupt, BrokenOutput, BrokenPipeError, OutputFailed):
        raise
    except Exception as exc:
        code = exit_code(exc)
        if code is None:
            raise
        if not isinstance(exc, SaidNo):
            sentence = _sentence(exc, words)
            form = _json_form(words)
            if form:
                document = {**error_document(exc), "error": sentence}
                with writing():
                    print(json.dumps(document, indent=2 if form == "json" else None), flush=True)
            say_error(sentence)
        return code
    return result if isinstance(result, int) else 0


def _json_form(words: Sequence[str]) -> str:
    """`json` or `jsonl` where the command line asks for it, else "". It may be one that the parser does not read."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        option, _, value = word.partition("=")
        if option in ("--json", "--jsonl"):
            return option[2:]
        if option in ("-o", "--output") and (value or following) in ("json", "jsonl"):
            return value or following
    return ""


_LACKING: Final = re.compile(r'Command "[^"]*" parameter (--\S+) requires an argument\.')

#: Commands whose arguments are not repeated.
_WITH_SECRETS: Final = frozenset({"secret", "send"})


def _first(arguments: Sequence[str]) -> str:
    """The command's first word, "" where there is none: then nothing has to be loaded."""
    return next((word for word in arguments if not word.startswith("-")), "")


def _sentence(error: Exception, arguments: Sequence[str]) -> str:
    if not isinstance(error, CycloptsError):
        return str(error)
    where = " ".join(("stereosctl", *(error.command_chain or ()), "--help"))
    if arguments[:1] and arguments[0] in _WITH_SECRETS and not isinstance(error, MissingArgumentError):
        # The parser quotes what it does not understand, and that may be a secret in the wrong place.
        return f"these arguments do not fit (secrets never stand among them); see: {where}"
    text = _without_far_fetched(" ".join(str(error).split()))
    lacking = _LACKING.fullmatch(text)
    if lacking and not any(word.partition("=")[0] == lacking[1] for word in arguments):
        # The parser says the same of an option without a value and of an option that is not there.
        return f"{lacking[1]} is missing; see: {where}"
    for pattern, words in _REWORDED:
        text = pattern.sub(words, text)
    return f"{text.removesuffix('.')}; see: {where}"


#: What was typed and what the parser suggests for it, less the dashes in front of both.
_SUGGESTION: Final = re.compile(
    r'(?:Unknown option: |Unknown command ")-*([^".]+)"?\.(?P<suggested> Did you mean "?-*([^"?]+)"?\?)'
)
#: How much two words have in common at least, from 0 to 1, for one to be suggested for the other.
_CLOSE: Final = 0.7


def _without_far_fetched(text: str) -> str:
    """The parser's sentence without a suggestion that has little in common with what was typed."""
    found = _SUGGESTION.search(text)
    if found is None or SequenceMatcher(None, found[1], found[3]).ratio() >= _CLOSE:
        return text
    return text.replace(found["suggested"], "")


def _leave_output() -> None:
    # What is still in the buffer would be complained about when the interpreter ends.
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
