"""What a word on the command line may become: for Tab in `stereosctl shell`, in bash, in zsh and in fish.

The scripts of the shells ask `stereosctl __complete`, which answers with a line that says `files` or nothing, and a
line for each word. Names of files are left to the shell, which knows how to write them, whatever they are made of.
Some words are names that a guest has chosen. What is offered is written into a line that a shell will run, so a word is
only offered where every shell reads it as itself, with quotes around it or without.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import attrs
from cyclopts import App

from ._console import print_lines
from ._errors import GuestError, UsageError
from ._formats import KINDS
from ._tree import ALIASES, DEFAULT_PARAMETER, HELP, make_app

#: Seconds that a guest has to name its agents.
_PATIENCE: Final = 1.0
#: What a word that is offered may be made of: nothing that a shell expands, splits or runs.
_PLAIN: Final = re.compile(r"[\w.@%+,/:=-]+", re.ASCII)


@attrs.frozen
class Words:
    """A command line, up to the cursor."""

    #: The words before it, without `stereosctl`.
    begun: Sequence[str]
    #: The word that is being typed, as far as it is.
    text: str


@attrs.frozen
class Found:
    """What the word may become."""

    words: tuple[str, ...] = ()
    #: Whether it may be a file's name.
    files: bool = False


def completions(app: App, typed: Words) -> Found:
    """What `typed.text` may become."""
    begun = list(typed.begun)
    if begun[:1] == [HELP]:
        begun = begun[1:]
    if begun:
        begun[0] = ALIASES.get(begun[0], begun[0])
    top = not begun
    while begun and not begun[0].startswith("-") and begun[0] in set(app):
        app, begun = app[begun[0]], begun[1:]
    if app.default_command is None:
        return _matching([*app, *((HELP, *ALIASES) if top else ())], typed.text, options=typed.text.startswith("-"))
    arguments = list(app.assemble_argument_collection(default_parameter=DEFAULT_PARAMETER))
    option = _waiting_for_value(arguments, begun)
    if option is not None:
        return _values(option, typed)
    if typed.text.startswith("-"):
        name, equals, value = typed.text.partition("=")
        named = _named(arguments, name) if equals else None
        if named is not None and _takes_value(named):
            return _behind(f"{name}=", _values(named, Words(typed.begun, value)))
        names = [name for argument in arguments for name in argument.names if name.startswith("--")]
        return _matching([*names, "--help"], typed.text, options=True)
    position = len(standing(arguments, begun))
    at = [argument for argument in arguments if argument.index == position]
    if at:
        return _values(at[0], typed)
    return _addresses(typed) if any("--address" in each.names for each in arguments) else Found()


def _matching(words: Iterable[str], text: str, *, options: bool = False) -> Found:
    plain = (word for word in words if _PLAIN.fullmatch(word))
    return Found(tuple(sorted({w for w in plain if w.startswith(text) and (options or not w.startswith("-"))})))


def _behind(head: str, found: Found) -> Found:
    """What a word may become that begins with `head`, where `found` is what follows."""
    return Found(tuple(f"{head}{word}" for word in found.words), found.files)


def _takes_value(argument: Any) -> bool:
    return bool(argument.token_count()[0])


def _named(arguments: Sequence[Any], word: str) -> Any:
    return next((argument for argument in arguments if word in argument.names), None)


def _waiting_for_value(arguments: Sequence[Any], begun: Sequence[str]) -> Any:
    """The option whose value comes next, None where there is none."""
    option = _named(arguments, begun[-1]) if begun and begun[-1].startswith("-") else None
    return option if option is not None and _takes_value(option) else None


def standing(arguments: Sequence[Any], begun: Sequence[str]) -> list[str]:
    """The words that stand by themselves: neither options nor values of options."""
    found: list[str] = []
    rest = list(begun)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return found + rest
        if not word.startswith("-") or word == "-":
            found.append(word)
        elif "=" not in word:
            option = _named(arguments, word)
            if rest and option is not None and _takes_value(option):
                rest.pop(0)
    return found


# ------------------------------------------------------------------------------------------------------ values


def _values(argument: Any, typed: Words) -> Found:
    choices = _choices(argument.hint)
    words = [choice for choice in choices if isinstance(choice, str)]
    if words:
        return _matching(words, typed.text)
    for name in argument.names:
        if name in _VALUES:
            return _VALUES[name](typed)
    return Found(files=Path in choices)


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, and Path where the type is one."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    parts = get_args(hint)
    return (Path,) if hint is Path else tuple(each for part in parts for each in _choices(part))


def _addresses(typed: Words) -> Found:
    from stereos_proto_io.addresses import SCHEMES  # noqa: PLC0415

    return _matching((f"{scheme}://" for scheme in SCHEMES), typed.text)


def _requests(typed: Words) -> Found:
    from stereos_proto import MessageType, Role, message_class  # noqa: PLC0415

    return _matching((type_ for type_ in MessageType if message_class(Role.HOST, type_)), typed.text)


def _machines(typed: Words) -> Found:
    from ._machines import machines_folder, names  # noqa: PLC0415

    with suppress(UsageError):
        return _matching(names(machines_folder(flag=_given("--config-dir", typed.begun))), typed.text)
    return Found()


def _given(option: str, begun: Sequence[str]) -> str | None:
    """The value of an option that stands on the line already."""
    for word, following in zip(begun, (*begun[1:], ""), strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else following
    return None


def _conditions(typed: Words) -> Found:
    from stereos_proto import LifecycleState  # noqa: PLC0415

    words = [f"state={state}" for state in LifecycleState] + ["shutdown"]
    agents = [f"agent={name}" for name in _agents(typed)] if typed.text.startswith("agent=") else ["agent="]
    return _matching([*words, *agents], typed.text)


def _agents(typed: Words) -> list[str]:
    """The agents of the guest that the line names, where it answers at once."""
    from stereos_proto import StereosError  # noqa: PLC0415

    from ._contact_blocking import dial  # noqa: PLC0415
    from ._deadline import Deadline  # noqa: PLC0415
    from ._targets import Place, looks_like_address  # noqa: PLC0415

    address = next((word for word in typed.begun if looks_like_address(word)), None)
    vm = None if address else _given("--vm", typed.begun)
    place = Place(address, vm=vm, config_dir=_given("--config-dir", typed.begun))
    with suppress(UsageError, GuestError, StereosError):
        deadline = Deadline.after(_PATIENCE)
        with dial(place.target(), deadline) as client:
            return [agent.name for agent in client.get_health(timeout=deadline.left).agents]
    return []


def _faults(typed: Words) -> Found:
    from stereos_proto_io.guest.faults import FAULTS  # noqa: PLC0415

    return _matching(FAULTS, typed.text)


def _jcards(typed: Words) -> Found:
    if "=" in typed.text:
        return Found(files=True)
    return Found(tuple(f"{name}=" for name in _machines(typed).words))


def _states(typed: Words) -> Found:
    from stereos_proto import LifecycleState  # noqa: PLC0415

    from ._machines import STATES_OF_MACHINES  # noqa: PLC0415

    command = next((word for word in typed.begun if word != HELP), "")
    # Machines whose guests do not answer are listed, and that is all that can be done with them.
    more = STATES_OF_MACHINES if ALIASES.get(command, command) == "ls" else ()
    return _matching((*LifecycleState, *more), typed.text)


def _one_of(*words: str) -> Callable[[Words], Found]:
    return lambda typed: _matching(words, typed.text)


#: What the value of an option, or of a word that stands by itself, may be, where its type does not say.
_VALUES: Final[dict[str, Callable[[Words], Found]]] = {
    "--vm": _machines,
    "--look": _machines,
    "PATTERN": _machines,
    "--state": _states,
    "--for": _conditions,
    "--fault": _faults,
    "--jcard": _jcards,
    "--output": _one_of(*KINDS, "template="),
    "--address": _addresses,
    "ADDRESS": _addresses,
    "--listen": _addresses,
    "--user": _one_of("admin", "agent"),
    "--env": lambda typed: _matching(os.environ, typed.text),
    "--config-dir": lambda _typed: Found(files=True),
    "FILE": lambda _typed: Found(files=True),
    "TYPE": _requests,
}


# ---------------------------------------------------------------------------------------------- for the shells


def answer(arguments: Sequence[str]) -> int:
    """Answer a completion script: `line LINE` is all that stands before the cursor, `words WORD…` the same in words."""
    kind, *words = arguments or ("words",)
    if kind == "line":
        words = _split(" ".join(words))[1:]
    *begun, text = words or [""]
    found = completions(make_app(ALIASES.get(begun[0], begun[0]) if begun else "-"), Words(begun, text))
    print_lines(["files" if found.files else "words", *found.words])
    return 0


def _split(line: str) -> list[str]:
    """The words of a line, the last of which may be quoted by half."""
    for end in ("", '"', "'"):
        with suppress(ValueError):
            words = shlex.split(line + end)
            return [*words, ""] if line[-1:].isspace() and not end else words
    return [*line.split(" ")]


def script(shell: str) -> str:
    """The completion script of a shell."""
    return Path(__file__).with_name("completion").joinpath(f"stereosctl.{shell}").read_text(encoding="utf-8")
