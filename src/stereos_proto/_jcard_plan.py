"""What a jcard.toml says, as a plan (`docs/protocol.md` §10)."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import tomli_w

from ._codec import encode
from ._constants import MAX_LINE_SIZE
from ._errors import LocalProtocolError, reason_of
from ._jcard_agents import agent_names, check_agent, one_of
from ._jcard_fields import Findings, looks_secret, read_fields
from ._jcard_text import JcardText
from ._messages import InjectSecret, InjectSSHKey, Mount, SetConfig, with_article
from ._provision import ProvisionPlan, folders_to
from ._toml import Path

#: Reads a `prompt_file`: takes the path, returns the content. Raises OSError or ValueError, whose text says why not.
PromptReader = Callable[[str], str]

#: Folders of the system, over which the guest mounts nothing (§6).
_SYSTEM_FOLDERS: Final = ("nix", "etc", "bin", "boot", "dev", "proc", "sys", "run")
#: Longest name of a secret in bytes: the guest first writes a file NAME.tmp, whose name may have 255.
_LONGEST_SECRET_NAME: Final = 255 - len(".tmp")

#: Characters that the variables of a file may come to, each counted as often as the file names it.
MAX_EXPANDED: Final = 16 * 1024 * 1024
#: Characters of prompt files and default folders that are filled in for `[[agents]]`. More do not fit in a line.
MAX_FILLED_IN: Final = MAX_LINE_SIZE

#: What the reference host fills in for an agent that says nothing. `workdir` depends on the file.
_AGENT_DEFAULTS: Final = {"type": "sandboxed", "restart": "no", "grace_period": "30s"}
_WORKDIR: Final = "/workspace"
#: What may come from elsewhere, so that a short file with many agents makes a long config.
_FILLED_IN: Final = frozenset({"prompt", "workdir"})

# All that stands in the braces is the name; without a "}" no name ends, and the text stays. (Possessive, so that a long
# text of "${" takes linear time.)
_VARIABLE: Final = re.compile(r"\$\{([^}]*+)(\}?)")
# An odd or long name may be a piece of a password that only looks like a variable. It is not shown.
_SHOWN_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_ .:+-]{0,63}")

_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")

_Tables = list[tuple[int, dict[str, Any]]]


def read_plan(
    text: JcardText,
    env: Mapping[str, str],
    fs_type: str,
    ssh_keys: Iterable[InjectSSHKey],
    strict: bool,
    read_prompt: PromptReader | None,
    folder_name: str,
) -> ProvisionPlan:
    card = _Card(text.parse(), env, read_prompt)
    card.check_machine()
    mounts = [
        Mount(f"share{index}", path, fs_type, read_only) for index, (path, read_only) in enumerate(card.folders())
    ]
    secrets = card.secrets()
    entries, older = card.agents()
    names = agent_names(entries, card.findings)
    warnings = text.judge(card.findings.found, strict=strict)
    try:
        config = card.config(entries, older, folder_name)
    except RecursionError:
        raise text.error("an unknown key of an agent nests too deeply") from None
    return ProvisionPlan(mounts, secrets, ssh_keys, config, names, warnings)


class _Card:
    """What a file says. Each part of it notes in `findings` what is wrong, and goes on."""

    def __init__(self, document: Mapping[str, Any], env: Mapping[str, str], read_prompt: PromptReader | None) -> None:
        self.findings = Findings()
        self._env = env
        self._read_prompt = read_prompt
        self._file = read_fields(document, self.findings)
        self._shared = _tables(self._file.get("shared"))
        self._expanded = 0
        self._prompts: dict[str, tuple[str | None, str]] = {}

    def _expand(self, value: str, path: Path) -> str:
        """`value` with its variables. They are expanded once: what they hold is taken as it is."""
        found = dict.fromkeys(name for name, closed in _VARIABLE.findall(value) if name and closed)
        for name in found:
            if name in self._env and not isinstance(self._env[name], str):
                kind = with_article(type(self._env[name]))
                raise TypeError(f"env must map names to texts; the value of {_shown(name)} is {kind}")
        unset = [name for name in found if name not in self._env]
        odd = [name for name in found if name in self._env and not _is_unicode(self._env[name])]
        for names, what in ((unset, "set"), (odd, "UTF-8")):
            if shown := dict.fromkeys(map(_shown, names)):
                several = len(shown) > 1
                self.findings.fault(
                    path,
                    f"needs the environment variable{'s' * several} {' and '.join(shown)}, "
                    f"which {'are' if several else 'is'} not {what}",
                )
        if unset or odd or not self._has_room(value, path):
            return ""
        return _VARIABLE.sub(lambda match: self._env[match[1]] if match[1] and match[2] else match[0], value)

    def _has_room(self, value: str, path: Path) -> bool:
        """Whether the variables of the file, those of `value` included, are short enough. Noted once if not."""
        before = self._expanded
        self._expanded += sum(len(self._env[name]) for name, closed in _VARIABLE.findall(value) if name and closed)
        if before <= MAX_EXPANDED < self._expanded:
            self.findings.fault(path, f"makes the variables of the file longer than {MAX_EXPANDED} characters together")
        return self._expanded <= MAX_EXPANDED

    # ------------------------------------------------------------------------------- what the host does with it

    def check_machine(self) -> None:
        """What the reference host refuses of the machine's own settings."""
        resources, network = self._file.get("resources") or {}, self._file.get("network") or {}
        cpus = resources.get("cpus")
        if cpus is not None and cpus < 1:
            self.findings.doubt(("resources", "cpus"), "must be at least 1")
        modes = ("nat", "bridged", "none")
        if network.get("mode") and network["mode"] not in modes:
            self.findings.doubt(("network", "mode"), f"must be {one_of(modes)}")
        for index, forward in _tables(network.get("forwards")):
            path: Path = ("network", "forwards", index)
            for key in ("host", "guest"):
                port = forward.get(key, 0)
                if port is not None and not 1 <= port <= 65535:
                    self.findings.doubt((*path, key), "must be a port, 1 to 65535")
            if forward.get("proto") and forward["proto"] not in ("tcp", "udp"):
                self.findings.doubt((*path, "proto"), "must be tcp or udp")

    def folders(self) -> Iterator[tuple[str, bool]]:
        """The places of the shared folders in the guest, and whether they are read-only there."""
        # In order, so that what lies at a folder or below it follows the folder.
        places: list[tuple[str, ...]] = []
        for index, shared in self._shared:
            self._expand(shared.get("host") or "", ("shared", index, "host"))
            path, key = shared.get("guest", ""), ("shared", index, "guest")
            if path is None:
                continue
            clean = folders_to(path)
            nearest = bisect_left(places, clean)
            if "guest" not in shared:
                self.findings.fault(key, "is missing")
            elif not path.startswith("/"):
                self.findings.fault(key, "must be an absolute path")
            elif not clean or clean[0] in _SYSTEM_FOLDERS:
                self.findings.fault(key, "must not lie over a folder of the guest's system")
            elif "\0" in path:
                self.findings.fault(key, "must not hold a NUL")
            elif clean in places[nearest : nearest + 1]:
                self.findings.warn(key, "is also the path of an earlier folder, which this mount would hide")
            elif any(place[: len(clean)] == clean for place in places[nearest : nearest + 1]):
                self.findings.warn(key, "lies above the path of an earlier folder, which this mount would hide")
            places.insert(nearest, clean)
            yield path, bool(shared.get("readonly"))

    def secrets(self) -> list[InjectSecret]:
        found: list[InjectSecret] = []
        for name, value in (self._file.get("secrets") or {}).items():
            place: Path = ("secrets", name)
            if name in ("", ".") or ".." in name or set(name) & set("/\0"):
                self.findings.fault(place, "must be a simple file name")
            elif len(name.encode(errors="surrogatepass")) > _LONGEST_SECRET_NAME:
                self.findings.fault(place, f"must be a name of at most {_LONGEST_SECRET_NAME} bytes")
            if value is not None:
                found.append(InjectSecret(name, self._expand(value, place)))
        return found

    # --------------------------------------------------------------------------------------------- the agents

    def agents(self) -> tuple[_Tables, dict[str, Any] | None]:
        """The `[[agents]]` to send, each with its index in the file, and the `[agent]` to send, if any."""
        entries: _Tables = []
        filled_in = 0
        for index, table in _tables(self._file.get("agents")):
            agent = self._agent(table, ("agents", index))
            entries.append((index, agent))
            filled_in += sum(len(agent[key]) for key in _FILLED_IN & agent.keys() if agent[key] is not table.get(key))
            if filled_in > MAX_FILLED_IN:
                reason = f"makes prompts and folders longer than {MAX_FILLED_IN} characters together"
                self.findings.fault(("agents", index), f"{reason}, which cannot be sent")
                break
        older = self._file.get("agent")
        if older is not None:
            older = self._agent(older, ("agent",))
            if not entries:
                # Guests that read this form know neither of these, and call the agent by its harness.
                for key in sorted({"name", "replicas"} & older.keys()):
                    self.findings.warn(("agent", key), "has no meaning in [agent]; write [[agents]]")
                    del older[key]
                entries = [(0, older)]
        elif len(entries) == 1 and (entries[0][1].get("replicas") or 1) <= 1:
            older = {key: value for key, value in entries[0][1].items() if key != "replicas"}
        return entries, older

    def _agent(self, agent: dict[str, Any], path: Path) -> dict[str, Any]:
        """The agent as it is sent: with its defaults, its variables and its prompt."""
        check_agent(agent, path, self.findings)
        sent = {**_AGENT_DEFAULTS, "workdir": self._workdir(), **_given(agent)}
        if env := sent.pop("env", None):
            sent["env"] = {name: self._variable(name, value or "", (*path, "env", name)) for name, value in env.items()}
        if file := sent.pop("prompt_file", None):
            sent |= self._prompt(file, (*path, "prompt_file"), beside="prompt" in sent)
        return sent

    def _workdir(self) -> str:
        return next((shared["guest"] for _, shared in self._shared[:1] if shared.get("guest")), _WORKDIR)

    def _variable(self, name: str, value: str, path: Path) -> str:
        """A value of `[agents.env]`. It goes out in the config, which everyone in the guest can read."""
        expanded = self._expand(value, path)
        if expanded != value:
            self.findings.warn(path, "comes from a variable, and everyone in the guest can read it here")
        elif value and looks_secret(name):
            self.findings.warn(path, "looks like a secret, and everyone in the guest can read it here")
        return expanded

    def _prompt(self, file: str, path: Path, *, beside: bool) -> dict[str, str]:
        """What becomes of a `prompt_file`. `beside`: there is a `prompt`, too."""
        file = self._expand(file, path)
        if not file:
            return {}
        if file not in self._prompts:
            self._prompts[file] = self._read(file)
        content, reason = self._prompts[file]
        if content is None:
            said = f"is sent as a path of the guest ({reason}); if the guest has no such file, the agent cannot start"
            self.findings.warn(path, said)
            return {"prompt_file": file}
        if not _is_unicode(content):
            self.findings.fault(path, "names a file that is not UTF-8")
        if beside:
            self.findings.warn(path, "replaces the `prompt` of the same agent")
        return {"prompt": content}

    def _read(self, file: str) -> tuple[str | None, str]:
        """The content of a `prompt_file`, or None and why it is not read."""
        if self._read_prompt is None:
            return None, "no `read_prompt` was given"
        try:
            content = self._read_prompt(file)
        except (OSError, ValueError) as exc:
            return None, reason_of(exc)
        if not isinstance(content, str):
            raise TypeError(f"read_prompt must return a text, not {type(content).__name__}")
        return content, ""

    # --------------------------------------------------------------------------------------------- the config

    def config(self, entries: _Tables, older: dict[str, Any] | None, folder_name: str) -> str:
        """The jcard.toml that is sent."""
        network: dict[str, Any] = {"mode": "nat", **_given(self._file.get("network"))}
        if forwards := network.pop("forwards", ()):
            network["forwards"] = [{"proto": "tcp", **_given(forward)} for forward in forwards]
        config = {
            "mixtape": "base:latest",
            **({"name": folder_name} if folder_name else {}),
            **_given({key: value for key, value in self._file.items() if isinstance(value, str)}),
            "resources": {"cpus": 2, "memory": "4GiB", "disk": "20GiB", **_given(self._file.get("resources"))},
            "network": network,
            **({"shared": [shared for _, shared in self._shared]} if self._shared else {}),
            **({"agents": [agent for _, agent in entries]} if entries else {}),
        }
        text = tomli_w.dumps(config)
        if older is None:
            return text
        both = tomli_w.dumps({**config, "agent": older})
        try:
            encode(SetConfig(both))
        except LocalProtocolError:
            return text
        return both


def _is_unicode(text: str) -> bool:
    """Whether it can be sent: what Python has read from bytes that are not UTF-8 cannot."""
    return not _SURROGATE.search(text)


def _shown(variable: str) -> str:
    """The name of a variable as an error shows it."""
    if not _SHOWN_VARIABLE.fullmatch(variable):
        return "(its name is unusual and not shown)"
    return variable if variable.replace("_", "a").isalnum() else f'"{variable}"'


def _tables(value: Sequence[dict[str, Any] | None] | None) -> _Tables:
    """The tables of an array with their indexes, less those of a wrong type, which have been noted."""
    return [(index, table) for index, table in enumerate(value or ()) if table is not None]


def _given(table: Mapping[str, Any] | None) -> dict[str, Any]:
    """`table` less its empty strings, which count as missing, and values of a wrong type."""
    return {key: value for key, value in (table or {}).items() if value not in ("", None)}
