"""The tree of commands, and what happens around each of them: errors, interruption, a reader that has gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from cyclopts import App, CycloptsError, Parameter
from rich.text import Text

from ._context import STDIN
from ._errors import EXIT_CODES, BrokenOutput, SaidNo, exit_code
from ._output import clean, error_console, help_console

_HELP = """
See and steer StereOS guests: what the guest itself says, and what it is given.

A guest is named by its address, by `--vm NAME` (a virtual machine of mb's), or by STEREOS_ADDRESS.

For example:

    stereosctl demo
    stereosctl health tcp://127.0.0.1:1024
    stereosctl provision jcard.toml --vm dev
"""


#: Every command: where it is, and the first line of its docstring, so that the help need not load it.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "ping": ("._commands_ask:ping", "See whether the guest answers, and how fast."),
    "health": ("._commands_ask:health", "Show what the guest says of itself."),
    "agents": ("._commands_ask:agents", "List the guest's agents."),
    "wait": ("._commands_ask:wait", "Wait for a state, an agent, or the end."),
    "watch": ("._watch:watch", "Watch the guest's state and agents, until Ctrl-C."),
    "shutdown": ("._commands_ask:shutdown", "Power the guest off."),
    "provision": ("._commands_give:provision", "Give the guest all that a jcard.toml asks for."),
    "mount": ("._commands_give:mount", "Mount a folder that the hypervisor shares."),
    "config set": ("._commands_give:config_set", "Replace the guest's jcard.toml."),
    "secret set": ("._commands_give:secret_set", "Store a secret in the guest."),
    "ssh-key add": ("._commands_give:ssh_key_add", "Let the owner of a public key log in."),
    "send": ("._commands_wire:send", "Send a request of any type, and show the reply."),
    "record": ("._commands_wire:record", "Stand between hosts and a guest, and write down what they say."),
    "replay": ("._commands_wire:replay", "Say to a guest what a recorded host said, and compare the answers."),
    "decode": ("._commands_wire:decode", "Show a transcript, or lines of the wire."),
    "simulate": ("._commands_simulate:simulate", "Be a guest to try things on."),
    "conformance": ("._commands_simulate:conformance", "Examine whether a guest speaks the protocol."),
    "demo": ("._commands_simulate:demo", "Boot a simulated guest, provision it, look at it, shut it down."),
    "ls": ("._commands_local:ls", "List mb's virtual machines, and what their guests say."),
    "doctor": ("._doctor:doctor", "Find out why a guest cannot be reached."),
    "shell": ("._shell:shell", "Type commands for one guest."),
    "completion": ("._commands_local:completion", "Print the completion script of a shell."),
}
GROUPS: Final[dict[str, str]] = {
    "config": "The guest's jcard.toml.",
    "secret": "Secrets, which the guest keeps in memory.",
    "ssh-key": "Who may log in.",
}


def _epilogue() -> str:
    return "Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning, _ in EXIT_CODES)


def _default(value: Any) -> str | None:
    """What the help says of a default: nothing of what is off or empty."""
    if value in (False, None, ()):
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415  (slow to load, and rarely asked for)

    return version("stereos-proto")


def make_app(only: str | None = None) -> App:
    """The tree of commands. With `only`, none but that one is loaded: the others just stand in the help."""
    app = App(
        name="stereosctl",
        help=_HELP,
        help_epilogue=_epilogue(),
        version=_version,
        console=help_console(),
        help_format="plaintext",
        default_parameter=Parameter(negative=(), show_default=_default),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
    )
    # What holds for all of them is said once, by `stereosctl --help`.
    groups = {"": app} | {name: App(name=name, help=text, help_epilogue="") for name, text in GROUPS.items()}
    for name, (place, summary) in COMMANDS.items():
        group, _, verb = name.rpartition(" ")
        if only in (None, name.partition(" ")[0]):
            module, _, function = place.partition(":")
            groups[group].command(getattr(import_module(module, __package__), function), name=verb, help_epilogue="")
        else:
            groups[group].command(f"{__package__}{place}", name=verb, help=summary)
    for name in GROUPS:
        app.command(groups[name])
    return app


def run(arguments: Sequence[str], app: App | None = None) -> int:
    """Run a command and return its exit code. What goes wrong is said in one line on stderr."""
    with suppress(AttributeError, ValueError):
        # A terminal that cannot show a character gets another one, rather than no output at all.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _run(arguments, app)
    except (BrokenOutput, BrokenPipeError):
        return _output_is_gone()
    except KeyboardInterrupt as exc:
        with suppress(BrokenOutput, KeyboardInterrupt):
            error_console().print(Text("interrupted", "dim"))
        return exit_code(exc) or 1


def _run(arguments: Sequence[str], app: App | None) -> int:
    try:
        words = [STDIN if word == "-" else word for word in arguments]
        result: Any = (app or make_app(_first(words)))(words)
        sys.stdout.flush()
    except (KeyboardInterrupt, BrokenOutput, BrokenPipeError):
        raise
    except Exception as exc:
        code = exit_code(exc)
        if code is None:
            raise
        if not isinstance(exc, SaidNo):
            error_console().print(Text.assemble(("stereosctl: ", "bold red"), clean(_sentence(exc, arguments))))
        return code
    return result if isinstance(result, int) else 0


#: Commands whose arguments are not repeated.
_WITH_SECRETS: Final = frozenset({"secret", "send"})


def _first(arguments: Sequence[str]) -> str:
    """The command's first word, "" where there is none: then nothing has to be loaded."""
    return next((word for word in arguments if not word.startswith("-")), "")


def _sentence(error: Exception, arguments: Sequence[str]) -> str:
    if not isinstance(error, CycloptsError):
        return str(error)
    if arguments and arguments[0] in _WITH_SECRETS:
        # The parser quotes what it does not understand, and that may be a secret in the wrong place.
        what = " ".join(arguments[: 2 if arguments[0] == "secret" else 1])
        return f"these arguments do not fit (secrets never stand among them); see: stereosctl {what} --help"
    return " ".join(str(error).split())


def _output_is_gone() -> int:
    # What is still in the buffer would be complained about when the interpreter ends.
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code(BrokenOutput()) or 1
