"""Reading a jcard.toml (`docs/protocol.md` §10)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from ._messages import InjectSSHKey
from ._provision import ProvisionPlan

if TYPE_CHECKING:
    from ._jcard_plan import PromptReader

#: What a guest can mount (§6).
_FS_TYPES: Final = ("9p", "virtiofs")


def load_jcard(
    text: str,
    *,
    env: Mapping[str, str],
    fs_type: str = "9p",
    ssh_keys: Iterable[InjectSSHKey] = (),
    source: str = "jcard.toml",
    strict: bool = True,
    read_prompt: PromptReader | None = None,
    folder_name: str = "",
) -> ProvisionPlan:
    """Read a jcard.toml (`docs/protocol.md` §10) into a plan that means what the reference host makes of the file.

    `[[shared]]` folders become mounts with the tags `share0`, `share1`, … of type `fs_type`, which depends on the
    hypervisor: "9p" or "virtiofs". `[secrets]` become secrets, with each `${NAME}` taken from `env`. `plan.agents` are
    the names that the guest will report. `source` is what errors and warnings call the text.

    The config is written anew, with the defaults of the reference host: the known fields and the unknown keys of
    agents, without secrets and without comments. The `host` of a shared folder stays as it is written. One agent
    stands in it both as `[[agents]]` and as `[agent]`, for guests of either age, unless that makes the config too long
    to send. `folder_name` is what the machine is called if the file does not say.

    A `prompt_file` becomes the `prompt` if `read_prompt` returns its content; it is called once with each path, whose
    variables are expanded, and raises OSError or ValueError to refuse. A path that is refused is sent as it is, with a
    warning. `stereos_proto_io.read_jcard` brings a reader.

    `strict=False` turns into warnings what only the reference refuses of values: harness, type, restart, durations,
    memory, packages, network modes, ports, numbers that are too small. `plan.warnings` also names unknown keys, what
    looks like a secret outside of `[secrets]`, and other things that a user should know.

    Raises JcardError, with all faults of the file, when the text is not valid TOML, a value is of the wrong type or
    unusable, or a variable is unset; LocalProtocolError when a step could never be sent; ValueError when `fs_type` is
    neither of the two; TypeError when `text`, a value of `env`, or what `read_prompt` returns is not a string.
    """
    try:
        if fs_type not in _FS_TYPES:
            raise ValueError(f"fs_type must be {' or '.join(_FS_TYPES)}, not {fs_type!r}")  # noqa: TRY301
        # Loaded here, for programs that read no jcard: it is a seventh of what importing the package would cost.
        from ._jcard_plan import read_plan  # noqa: PLC0415
        from ._jcard_text import JcardText  # noqa: PLC0415

        return read_plan(JcardText(source, text), env, fs_type, ssh_keys, strict, read_prompt, folder_name)
    except BaseException as exc:  # noqa: BLE001  (those of a caller's `env` and `read_prompt` as well)
        # The frames of the traceback hold what has been read, secrets among it. No function is called here: a Ctrl-C
        # could interrupt it.
        del text, env
        exc.__traceback__ = exc.__context__ = None
        error = exc
    raise error
