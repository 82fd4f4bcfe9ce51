"""The tree of commands, and what happens around each of them: errors, interruption, a reader that has gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from rich.text import Text

from . import _commands_ask, _commands_give, _commands_local, _commands_simulate, _commands_wire
from ._errors import EXIT_CODES, BrokenOutput, SaidNo, exit_code
from ._output import clean, error_console

_HELP = """
See and steer StereOS guests: what the guest itself says, and what it is given.

A guest is named by its address, by `--vm NAME` (a virtual machine of mb's), or by STEREOS_ADDRESS.

For example:

    stereosctl demo
    stereosctl health tcp://127.0.0.1:1024
    stereosctl provision jcard.toml --vm dev
"""


def _epilogue() -> str:
    return "Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning, _ in EXIT_CODES)


def _default(value: Any) -> str | None:
    """What the help says of a default: nothing of what is off or empty."""
    if value in (False, None, ()):
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def make_app() -> App:
    """Every command of `stereosctl`."""
    app = App(
        name="stereosctl",
        help=_HELP,
        help_epilogue=_epilogue(),
        version=lambda: version("stereos-proto"),
        default_parameter=Parameter(negative=(), show_default=_default),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
    )
    for module in (_commands_ask, _commands_give, _commands_wire, _commands_simulate, _commands_local):
        module.register(app)
    for name in app:
        if not name.startswith("-"):
            # What holds for all of them is said once, by `stereosctl --help`.
            app[name].help_epilogue = ""
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
        result: Any = (app or make_app())(arguments)
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


def _sentence(error: Exception, arguments: Sequence[str]) -> str:
    if not isinstance(error, CycloptsError):
        return str(error)
    if arguments[:1] in (["secret"], ["send"]):
        # The parser quotes what it does not understand, and that may be a secret in the wrong place.
        what = " ".join(arguments[: 2 if arguments[0] == "secret" else 1])
        return f"these arguments do not fit (secrets never stand among them); see: stereosctl {what} --help"
    return " ".join(str(error).split())


def _output_is_gone() -> int:
    # What is still in the buffer would be complained about when the interpreter ends.
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code(BrokenOutput()) or 1
