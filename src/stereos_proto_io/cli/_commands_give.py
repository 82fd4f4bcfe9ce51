"""Commands that give guests something: config, secrets, SSH keys, mounts.

A secret comes from standard input, a file, the environment or a hidden prompt: never from the command line,
which every process on the machine can read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from rich.text import Text

from stereos_proto import (
    InjectSecret,
    InjectSSHKey,
    Mount,
    ProvisionPlan,
    Reply,
    Request,
    SetConfig,
    StepStatus,
    load_jcard,
)
from stereos_proto_io._ssh_keys import KEY_TYPES

from ._console import STDIN, clean, say
from ._contact import Contact
from ._errors import UsageError
from ._formats import DEFAULT_OUT, Out
from ._jobs import Job, perform, targets_of
from ._options import option, refuse_what_is_no_utf8
from ._output import STEP_MARKS, print_result
from ._prompt import ask_hidden
from ._reading import MOST_SENT, TooLong, read_at_most
from ._redact import redactor_of
from ._targets import DEFAULT_GUESTS, Guests, Target, in_shell

FsType = Literal["9p", "virtiofs"]


#: What to do about an empty standard input that was to be a file.
_WRITE_FILE: Final = "write the file to it, or name a file instead of -"


def read_bytes(source: Path, instead: str = _WRITE_FILE, *, most: int = MOST_SENT) -> bytes:
    """What is in a file, or on standard input for STDIN, `most` bytes at most. Raises UsageError.

    `instead` says what to do where standard input is empty.
    """
    if str(source) == STDIN:
        refuse_input_of_shell("no value can be read from it: give --file or --env, or name a file")
    try:
        data = read_at_most(sys.stdin.buffer if str(source) == STDIN else source, most)
    except TooLong as exc:
        raise UsageError(f"cannot read {_name(source)}: {exc}") from None
    except OSError as exc:
        raise UsageError(f"cannot read {_name(source)}: {exc.strerror or type(exc).__name__}") from None
    if not data and str(source) == STDIN:
        # Most likely the command that should have written the input has failed.
        raise UsageError(f"cannot read standard input: it is empty, or closed; {instead}")
    return data


def refuse_input_of_shell(what_then: str) -> None:
    """Raise UsageError where standard input is what `stereosctl shell` reads its commands from."""
    if in_shell() and not sys.stdin.isatty():
        raise UsageError(f"standard input has the commands of this shell, so {what_then}")


def read_text(source: Path, instead: str = _WRITE_FILE) -> str:
    """The text of a file, or of standard input for STDIN. Raises UsageError, without what stands in it.

    `instead` is that of `read_bytes`.
    """
    try:
        return read_bytes(source, instead).decode()
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {_name(source)}: it is not UTF-8") from None


def _name(source: Path) -> str:
    return "standard input" if str(source) == STDIN else str(source)


def read_key(source: Path, *, strict: bool = True) -> str:
    """The public key in a file. Raises UsageError, without `strict` only where it is a private key."""
    key = read_text(source).strip()
    if "PRIVATE KEY" in key:
        raise UsageError(f"{_name(source)} is a private key; the guest is to have the public one, which ends in .pub")
    if not key.startswith(KEY_TYPES):
        fault = (
            f"{_name(source)} is no public key: it has to begin with a type that a StereOS guest takes, such as "
            "ssh-ed25519, as the files do that end in .pub"
        )
        if strict:
            raise UsageError(fault)
        say(fault, style="yellow")
    return key


def _give(guests: Guests, request: Request, label: str, out: Out, targets: list[Target] | None = None) -> int:
    async def converse(contact: Contact) -> Reply:
        contact.redactor = redactor_of([request])
        await contact.dial()
        return await contact.ask(request)

    def show(_target: Target, _reply: Reply) -> None:
        mark, style = STEP_MARKS[StepStatus.DONE]
        print_result(Text.assemble((mark, style), " ", clean(label)))

    def document(_target: Target, _reply: Reply) -> dict[str, Any]:
        return {"ok": True, "request": request.type, "label": label}

    return perform(guests, Job(converse, document, show, lambda _reply: label), out, targets=targets)


#: Why `load_jcard` has not read a prompt's file, in its words: those of a program that calls it.
_NO_PROMPT: Final = "no `read_prompt` was given"
#: What it says of a jcard.toml on standard input, and what the user of a command line understands.
FROM_STDIN: Final = {_NO_PROMPT: "no file is read here, since standard input lies in no folder"}
#: What a plan would do, and what this command does instead, in the words of `load_jcard`.
_AS_IT_IS: Final = {
    ", and is not sent": ", and is sent as it is",
    "comes from a variable, and everyone in the guest can read it here": (
        "names a variable, whose value is not filled in here"
    ),
    _NO_PROMPT: "no file is read here",
}


def say_warnings(plan: ProvisionPlan, reworded: Mapping[str, str]) -> None:
    """Say the warnings of a plan, some of them in other words."""
    for warning in plan.warnings:
        for words, ours in reworded.items():
            warning = warning.replace(words, ours)
        say(warning, style="yellow")


def config_set(
    file: Path,
    /,
    guest: Guests = DEFAULT_GUESTS,
    *,
    no_strict: Annotated[bool, option("--no-strict")] = False,
    out: Out = DEFAULT_OUT,
) -> int:
    """Replace the guests' jcard.toml.

    It is sent as it is, and the guest stores it readable by everybody. A file with
    a [secrets] table is refused: `stereosctl provision` takes the secrets out.

    For example:

        stereosctl config set jcard.toml --vm dev

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        file: The file; - reads standard input.
        no_strict: Only warn of values that a StereOS guest would refuse: guests of other makes may take them.
        out: How the result is written.
    """
    targets = targets_of(guest, out)
    content = read_text(file)
    plan = load_jcard(content, env=_AnyValue(), source=str(file), strict=not no_strict)
    if plan.secrets:
        raise UsageError(
            f"{file} has [secrets], which the guest would store readable by everybody; "
            "use `stereosctl provision`, which sends them as secrets"
        )
    say_warnings(plan, _AS_IT_IS)
    return _give(guest, SetConfig(content), "config", out, targets)


class _AnyValue(dict[str, str]):
    """An environment in which every variable is set: to look at a jcard.toml without using it."""

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, _name: str) -> str:
        return ""


def secret_set(
    name: str,
    /,
    guest: Guests = DEFAULT_GUESTS,
    *,
    file: Path | None = None,
    env: Annotated[str | None, option("--env", takes="VARIABLE")] = None,
    mode: Annotated[str, option(takes="OCTAL")] = "0600",
    out: Out = DEFAULT_OUT,
) -> int:
    """Store a secret in guests.

    Its value is never an argument. Without --file or --env it is asked for on a
    terminal, unseen, and else read from standard input, less one newline at its
    end (LF or CRLF).

    For example:

        stereosctl secret set GITHUB_TOKEN --vm dev < token

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        name: The secret's name in the guest: one without `=`.
        file: Read the value from this file, every byte of it.
        env: Take the value of this environment variable.
        mode: The permission bits of the secret's file in the guest, in octal.
        out: How the result is written.
    """
    if "=" in name:
        # The habit NAME=VALUE. What stands behind the = is most likely the secret.
        raise UsageError(_ALONE)
    if file is not None and env is not None:
        raise UsageError("--file and --env cannot be combined")
    refuse_what_is_no_utf8({"NAME": name})
    bits = _permission_bits(mode)
    # Before the user types a secret for a command that is refused.
    targets = targets_of(guest, out, secret=_NEVER_AN_ARGUMENT)
    value = _secret_value(name, file, env)
    refuse_what_is_no_utf8({"the value of the secret": value})
    if not value:
        raise UsageError(f"the value of {name} is empty; to store an empty one, use `stereosctl send inject_secret -`")
    return _give(guest, InjectSecret(name, value, bits), f"secret {name}", out, targets)


#: The permission bits of a file: to read, to write and to execute it, for its owner, its group and all others.
_OCTAL: Final = re.compile(r"(?:0o)?0*[0-7]{1,3}", re.ASCII)


def _permission_bits(text: str) -> int:
    """The mode of a file, from its octal digits. Raises UsageError."""
    if not _OCTAL.fullmatch(text):
        raise UsageError("--mode takes the permission bits of a file in octal, from 0000 to 0777, such as 0600")
    return int(text, 8)


_NEVER_AN_ARGUMENT: Final = "a secret's value is never an argument: give it on standard input, or by --file or --env"


_ALONE: Final = (
    "NAME contains '=', and is not shown: a secret's value is never an argument, which every process of this "
    "machine can read; give NAME alone, and the value on standard input, or by --file or --env"
)
_WRITE_VALUE: Final = "write the value to it, or give --file FILE or --env VARIABLE"


def _secret_value(name: str, file: Path | None, env: str | None) -> str:
    if file is not None:
        return read_text(file)
    if env is not None:
        try:
            return os.environ[env]
        except KeyError:
            # Its name is not repeated: the value may have been written in its place.
            raise UsageError("the environment variable that --env names is not set") from None
    if sys.stdin.isatty():
        value = ask_hidden(f"Value of {clean(name)} (not shown): ")
        if value is None:
            raise UsageError("no secret given")
        return value
    value = read_text(Path(STDIN), _WRITE_VALUE)
    return value.removesuffix("\r\n") if value.endswith("\r\n") else value.removesuffix("\n")


def ssh_key_add(
    file: Path,
    /,
    guest: Guests = DEFAULT_GUESTS,
    *,
    user: Annotated[str, option(takes="NAME")],
    out: Out = DEFAULT_OUT,
) -> int:
    """Let the owner of a public key log in.

    It replaces the keys that the user had.

    For example:

        stereosctl ssh-key add ~/.ssh/id_ed25519.pub --user agent --vm dev

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        file: The public key; - reads standard input.
        user: The guest's user, such as admin or agent.
        out: How the result is written.
    """
    refuse_what_is_no_utf8({"--user": user})
    targets = targets_of(guest, out)
    return _give(guest, InjectSSHKey(user, read_key(file)), f"SSH key of {user}", out, targets)


def mount(
    tag: str,
    path: str,
    /,
    guest: Guests = DEFAULT_GUESTS,
    *,
    fs: FsType,
    read_only: bool = False,
    out: Out = DEFAULT_OUT,
) -> int:
    """Mount a folder that the hypervisor shares.

    Mounting twice lays one mount over the other.

    For example:

        stereosctl mount share0 /workspace --fs virtiofs --vm dev

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        tag: The tag under which the hypervisor shares it.
        path: Where it is to be in the guest.
        fs: 9p under QEMU, virtiofs under Apple's framework.
        read_only: Mount it read-only.
        out: How the result is written.
    """
    refuse_what_is_no_utf8({"TAG": tag, "PATH": path})
    return _give(guest, Mount(tag, path, fs, read_only), f"mount {tag} at {path}", out)
