"""The tree of commands: what there is, where it is, and its help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, Final

import attrs
from cyclopts import App, Group, Parameter

from . import plain_interrupts
from ._console import STDIN, help_console, our_version
from ._errors import EXIT_CODES

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
WIRE: Final = Group("Low level", sort_key=3)
TRY: Final = Group("Without a real guest", sort_key=4)
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
    "record": ("._commands_wire:record", "Record the traffic between hosts and a guest.", WIRE),
    "replay": ("._replay:replay", "Replay recorded requests to a guest, and compare the replies.", WIRE),
    "decode": ("._commands_wire:decode", "Show a transcript, or lines of the wire.", WIRE),
    "conformance": ("._commands_simulate:conformance", "Examine whether a guest speaks the protocol.", WIRE),
    "simulate": ("._commands_simulate:simulate", "Run a simulated guest.", TRY),
    "demo": ("._commands_simulate:demo", "Boot a simulated guest, provision it, look at it, shut it down.", TRY),
    "shell": ("._shell:shell", "Type commands for one guest.", HERE),
    "completion": ("._commands_local:completion", "Print the completion script of a shell.", HERE),
    "version": ("._commands_local:version", "Print the version.", HERE),
}
#: Other words for a command that people try.
ALIASES: Final = {"status": "health", "list": "ls"}
_NO_POWER: Final = "mb or the hypervisor starts machines"
_NO_SHELL: Final = "a guest runs no commands for its host: log in with SSH, where `ssh-key add` has let you in"
_NO_UNMOUNT: Final = "a guest cannot be asked to unmount: a reboot undoes all mounts"
_NO_REBOOT: Final = f"a guest cannot be asked to reboot: `shutdown` powers it off, and {_NO_POWER}"
#: Commands that people look for and that are not there, each with what is there for its purpose.
ABSENT: Final[dict[str, str]] = {
    **dict.fromkeys(("umount", "unmount"), _NO_UNMOUNT),
    **dict.fromkeys(("reboot", "restart"), _NO_REBOOT),
    **dict.fromkeys(("halt", "poweroff", "stop"), "`shutdown` powers a guest off"),
    **dict.fromkeys(("run", "start", "up"), f"{_NO_POWER}; `wait` waits until a guest is ready"),
    **dict.fromkeys(("exec", "ssh"), _NO_SHELL),
    "logs": "a guest sends no logs: `watch` shows what it reports, and `record` writes down the wire",
    "trace": "`-v` shows the wire of a command, and `record` writes it down",
}
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


def _epilogue() -> str:
    codes = "\n".join(f"  {each.code:>3}  {each.meaning}" for each in EXIT_CODES)
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


#: Parameters that may be standard input and have the type of a text. That of the others is Path.
_READ: Final = frozenset({"file", "payload"})


def _with_dashes(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with `-` for each text that was typed as `-`: the parser is given STDIN for it (`_app`)."""

    @wraps(command)
    def run(*values: Any, **options: Any) -> Any:
        given = inspect.signature(command).bind(*values, **options)
        for name, value in given.arguments.items():
            if name not in _READ:
                given.arguments[name] = _as_typed(value)
        return command(*given.args, **given.kwargs)

    return run


def _as_typed(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_as_typed, value))
    if attrs.has(type(value)):
        members = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        return attrs.evolve(value, **{name: _as_typed(member) for name, member in members.items()})
    return "-" if value == STDIN else value


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
            groups[above].command(_with_dashes(command), help=_help(command), usage=usage, help_epilogue="", **shown)
        else:
            groups[above].command(f"{__package__}{place}", help=summary, **shown)
    for name in GROUPS:
        app.command(groups[name])
    for flag in ("--help", "--version"):
        app[flag].group = HERE
    return app
