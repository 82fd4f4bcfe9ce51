"""Commands that give a guest something: config, secrets, SSH keys, mounts, or all of them from a jcard.toml.

A secret comes from standard input, a file, the environment or a hidden prompt: never from the command line,
which every process on the machine can read.
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter
from rich.text import Text

from stereos_proto import (
    InjectSecret,
    InjectSSHKey,
    Mount,
    OutcomeUnknown,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Request,
    RequestFailed,
    SetConfig,
    StepStatus,
    load_jcard,
)

from ._console import STDIN, clean, say
from ._context import DEFAULT_GUEST, Guest, Json, connect, connect_when_ready
from ._deadline import WAIT_SECONDS
from ._documents import report_document
from ._errors import SaidNo, UsageError
from ._output import STEP_MARKS, print_result, step_line, write_json
from ._redact import Redactor, redactor_of

FsType = Literal["9p", "virtiofs"]


def read_text(source: Path) -> str:
    """The text of a file, or of standard input for STDIN. Raises UsageError, without what stands in it."""
    try:
        if str(source) != STDIN:
            return source.read_bytes().decode()
        if data := sys.stdin.buffer.read():
            return data.decode()
        # Most likely what should have written it has failed.
        reason = "it is empty, or closed"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
    name = "standard input" if str(source) == STDIN else source
    raise UsageError(f"cannot read {name}: {reason}")


def read_key(source: Path) -> str:
    """The public key in a file. Raises UsageError."""
    key = read_text(source).strip()
    if "PRIVATE KEY" in key:
        raise UsageError(f"{source} is a private key; the guest is to have the public one, which ends in .pub")
    return key


def _give(guest: Guest, request: Request, label: str, *, json: bool) -> None:
    deadline = guest.deadline()
    with connect(guest, deadline) as client:
        try:
            client.request(request, timeout=deadline.left)
        except RequestFailed as exc:
            # The guest may quote a part of what it was sent.
            raise RequestFailed(request, redactor_of([request]).text(exc.error)) from None
    if json:
        write_json({"ok": True, "request": request.type, "label": label})
    else:
        mark, style = STEP_MARKS[StepStatus.DONE]
        print_result(Text.assemble((mark, style), " ", clean(label)))


def config_set(file: Path, /, guest: Guest = DEFAULT_GUEST, *, json: Json = False) -> None:
    """Replace the guest's jcard.toml.

    It is sent as it is, and the guest stores it readable by everybody. A file with
    a [secrets] table is refused: `stereosctl provision` takes the secrets out.

    For example:

        stereosctl config set jcard.toml --vm dev

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        file: The file, - for standard input.
        json: Print one JSON document.
    """
    content = read_text(file)
    if load_jcard(content, env=_AnyValue(), source=str(file)).secrets:
        raise UsageError(
            f"{file} has [secrets], which the guest would store readable by everybody; "
            "use `stereosctl provision`, which sends them as secrets"
        )
    _give(guest, SetConfig(content), "config", json=json)


class _AnyValue(dict[str, str]):
    """An environment in which every variable is set: to look at a jcard.toml without using it."""

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, _name: str) -> str:
        return ""


def secret_set(
    name: str,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    file: Path | None = None,
    env: Annotated[str | None, Parameter(name="--env", metavar="VARIABLE")] = None,
    mode: Annotated[str, Parameter(metavar="OCTAL")] = "0600",
    json: Json = False,
) -> None:
    """Store a secret in the guest.

    Its value is never an argument. Without --file or --env it is asked for on a
    terminal, unseen, and else read from standard input, less one newline at its
    end.

    For example:

        stereosctl secret set GITHUB_TOKEN --vm dev < token

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        name: The secret's name in the guest.
        file: Read the value from this file, every byte of it.
        env: Take the value of this environment variable.
        mode: The permission bits of the secret's file in the guest, in octal.
        json: Print one JSON document.
    """
    if file is not None and env is not None:
        raise UsageError("--file and --env exclude each other")
    # Nobody is to type a secret for a guest that cannot be named.
    guest.resolve()
    value = _secret_value(name, file, env)
    try:
        bits = int(mode, 8)
    except ValueError:
        raise UsageError("--mode takes octal permission bits, such as 0600") from None
    if not value:
        raise UsageError(f"the value of {name} is empty; if it is to be: `stereosctl send inject_secret -`")
    _give(guest, InjectSecret(name, value, bits), f"secret {name}", json=json)


def _secret_value(name: str, file: Path | None, env: str | None) -> str:
    if file is not None:
        return read_text(file)
    if env is not None:
        try:
            return os.environ[env]
        except KeyError:
            # Not named: somebody may have written the value instead.
            raise UsageError("the environment variable that --env names is not set") from None
    if sys.stdin.isatty():
        return getpass.getpass(f"Value of {clean(name)} (not shown): ", stream=sys.stderr)
    return read_text(Path(STDIN)).removesuffix("\n").removesuffix("\r")


def ssh_key_add(
    file: Path,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    user: Annotated[str, Parameter(metavar="NAME")],
    json: Json = False,
) -> None:
    """Let the owner of a public key log in.

    It replaces the keys that the user had.

    For example:

        stereosctl ssh-key add ~/.ssh/id_ed25519.pub --user agent --vm dev

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        file: The public key, - for standard input.
        user: The guest's user, such as admin or agent.
        json: Print one JSON document.
    """
    _give(guest, InjectSSHKey(user, read_key(file)), f"SSH key of {user}", json=json)


def mount(
    tag: str,
    path: str,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    fs: FsType,
    read_only: bool = False,
    json: Json = False,
) -> None:
    """Mount a folder that the hypervisor shares.

    Mounting twice lays one mount over the other.

    For example:

        stereosctl mount share0 /workspace --fs virtiofs --vm dev

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        tag: The tag under which the hypervisor shares it.
        path: Where it is to be in the guest.
        fs: 9p under QEMU, virtiofs under Apple's framework.
        read_only: Mount it read-only.
        json: Print one JSON document.
    """
    _give(guest, Mount(tag, path, fs, read_only), f"mount {tag} at {path}", json=json)


def provision(
    file: Path,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    fs: FsType = "9p",
    ssh_key: Annotated[Path | None, Parameter(name="--ssh-key")] = None,
    user: Annotated[str, Parameter(metavar="NAME")] = "admin",
    dry_run: bool = False,
    json: Json = False,
) -> None:
    """Give the guest all that a jcard.toml asks for.

    It waits for the guest, then sends mounts, secrets, the key and the config in
    one flight. Secrets take ${NAME} from the environment; the config goes without
    them, and last, since agents start with it.

    For example:

        stereosctl provision jcard.toml --vm dev --ssh-key ~/.ssh/id_ed25519.pub

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        file: The jcard.toml, - for standard input.
        fs: How the hypervisor shares folders: 9p under QEMU, virtiofs under Apple's framework.
        ssh_key: A public key that may log in.
        user: Whom the key is for.
        dry_run: Show the steps, and send nothing.
        json: Print one JSON document.
    """
    plan = read_plan(file, fs, ssh_key, user)
    if dry_run:
        steps = [ProvisionStep(request, StepStatus.NOT_SENT) for request in plan.requests]
        report = ProvisionReport(tuple(steps))
        if json:
            write_json(report_document(report))
        else:
            print_result(*map(step_line, report.steps))
            say("nothing was sent")
        return
    deadline = guest.deadline(WAIT_SECONDS)
    with connect_when_ready(guest, deadline) as client:
        redactor = redactor_of(plan.requests)
        result = client.provision(
            plan, on_step=None if json else lambda step: _show_step(_discreet(step, redactor)), timeout=deadline.left
        )
    result = ProvisionReport(tuple(_discreet(step, redactor) for step in result.steps))
    if json:
        write_json(report_document(result))
    else:
        say(f"{len(result.steps) - len(result.failed)} of {len(result.steps)} steps done")
    judge(result)


def read_plan(file: Path, fs: FsType, ssh_key: Path | None, user: str) -> ProvisionPlan:
    """The plan that a jcard.toml describes."""
    keys = () if ssh_key is None else (InjectSSHKey(user, read_key(ssh_key)),)
    return load_jcard(read_text(file), env=os.environ, fs_type=fs, ssh_keys=keys, source=str(file))


def _discreet(step: ProvisionStep, redactor: Redactor) -> ProvisionStep:
    """The step, with what the guest quoted of the plan's secrets blotted out."""
    if not isinstance(step.error, RequestFailed):
        return step
    return attrs.evolve(step, error=RequestFailed(step.request, redactor.text(step.error.error)))


def _show_step(step: ProvisionStep) -> None:
    print_result(step_line(step))


def judge(report: ProvisionReport) -> None:
    """Raise what a provisioning that did not go well ends in; its steps have been shown."""
    failed = report.failed
    if not failed:
        return
    if any(step.status is StepStatus.REFUSED for step in failed):
        raise SaidNo
    for step in failed:
        if isinstance(step.error, OutcomeUnknown):
            raise step.error
    report.raise_for_failure()
