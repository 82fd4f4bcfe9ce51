"""Make the man page anew: docs/man/stereosctl.1, from what the commands say of themselves.

Run it after a change of a command's help: `.venv/bin/python tools/make_man.py`. A test compares the two.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cyclopts.help import create_parameter_help_panel

from stereos_proto_io.cli._errors import EXIT_CODES
from stereos_proto_io.cli._tree import COMMANDS, DEFAULT_PARAMETER, OPTIONS, make_app

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "man" / "stereosctl.1"

_ENVIRONMENT: Final = {
    "STEREOS_ADDRESS": "The address of the guest that is meant where a command names none.",
    "MB_CONFIG_DIR, XDG_CONFIG_HOME": "Where mb keeps its machines; MB_CONFIG_DIR counts before mb's config.toml.",
    "XDG_STATE_HOME": "Where the history of `stereosctl shell` is kept.",
    "NO_COLOR": "Whatever its value, unless it is empty, no colours are written.",
}
_SIGNALS: Final = {
    "SIGINT (Ctrl-C)": "Ends the command, which cleans up and dies of SIGINT, so that a shell's loop ends as well. "
    "`watch`, `ls -w`, `simulate` and `record` last until Ctrl-C: they end with exit code 0. `shell` goes back to its "
    "prompt.",
    "SIGTERM, SIGHUP": "Clean up, and die of the signal. `watch`, `ls -w`, `simulate` and `record` end with exit code "
    "0.",
    "SIGTSTP (Ctrl-Z)": "Gives the terminal back as it was, and takes it again when the command is continued. A hidden "
    "prompt stays hidden.",
}


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))


def _tagged(name: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_escaped(name)}"
    yield _escaped(" ".join(text.split()))


def _paragraphs(text: str) -> Iterator[str]:
    """A docstring, less its arguments: paragraphs, and examples as they stand."""
    for part in inspect.cleandoc(text).partition("\n\nArgs:")[0].split("\n\n"):
        if part.startswith(" "):
            yield ".EX"
            yield _escaped("\n".join(line[4:] for line in part.split("\n")))
            yield ".EE"
        else:
            yield ".PP"
            yield _escaped(" ".join(part.split()))


def _options(app: Any) -> Iterator[str]:
    """Arguments and options, as `--help` shows them: with what they take, the choices, and the defaults."""
    arguments = app.assemble_argument_collection(default_parameter=DEFAULT_PARAMETER, parse_docstring=True)
    for entry in create_parameter_help_panel(OPTIONS, arguments, "plaintext").entries:
        notes = (
            entry.choices and f"[choices: {', '.join(entry.choices)}]",
            entry.default and f"[default: {entry.default}]",
            entry.required and "[required]",
        )
        text = entry.description.primary_renderable.plain
        yield from _tagged(", ".join(entry.display_labels_with_metavar), " ".join(filter(None, (text, *notes))))


def page() -> str:
    """The page."""
    app = make_app()
    lines = [
        '.TH STEREOSCTL 1 "" "stereos-proto" "User Commands"',
        ".SH NAME",
        "stereosctl \\- see and steer StereOS guests",
        ".SH SYNOPSIS",
        ".B stereosctl",
        ".I COMMAND",
        "[ARGUMENTS]... [OPTIONS]",
        ".SH DESCRIPTION",
        *list(_paragraphs(app.help))[:4],
        ".SH COMMANDS",
    ]
    for name in COMMANDS:
        command = app
        for word in name.split():
            command = command[word]
        usage = re.sub(r"^Usage: ", "", command.usage or "")
        lines += [f".SS {_escaped(name)}", f".B {_escaped(usage)}", *_paragraphs(command.help), *_options(command)]
    lines += [".SH EXIT STATUS"]
    for each in EXIT_CODES:
        lines += _tagged(str(each.code), each.meaning)
    for title, table in (("SIGNALS", _SIGNALS), ("ENVIRONMENT", _ENVIRONMENT)):
        lines += [f".SH {title}"]
        for name, text in table.items():
            lines += _tagged(name, text)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
