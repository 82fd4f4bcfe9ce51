"""From a jcard.toml to a plan (§10): agents that a guest starts, and no secret in the config, a warning or an error."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator
from functools import partial
from typing import Any

from stereos_proto import InjectSecret, JcardError, LocalProtocolError, Mount, ProvisionPlan, SetConfig, load_jcard
from stereos_proto._toml import statements
from stereos_proto_io.guest._agents import Age, ConfigDropped, read_config

from .secrecy import SENTINEL, shown
from .source import outcome, split

HEAD = 1
BODY = "toml"
LONGEST = 160

ENVIRONMENT = {"TOKEN": f"{SENTINEL}-from-outside", "EMPTY": ""}
#: Top-level names that are sent, in lower case.
SENT = ("mixtape", "mixtape_digest", "name", "resources", "network", "shared", "agents", "agent")


def check(data: bytes) -> None:
    """Raise AssertionError when an invariant of reading a jcard does not hold for `data`."""
    head, body = split(data, HEAD)
    text = body.decode("utf-8", "surrogateescape" if head[0] & 1 else "replace")
    strict = not head[0] & 2
    try:
        document: dict[str, Any] | None = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        document = None
    plan = outcome(partial(load_jcard, text, env=ENVIRONMENT, strict=strict, read_prompt=prompt))
    if isinstance(plan, Exception):
        assert type(plan) in (JcardError, LocalProtocolError)
        assert SENTINEL not in shown(plan) or SENTINEL in str([*open_texts(document)])
        return
    assert document is not None
    check_plan(plan, document)
    check_config(plan, document)
    check_guest(plan, strict=strict)
    places = statements(text.removeprefix("\ufeff"))
    assert all(one.line < two.line for one, two in itertools.pairwise(places))


def prompt(path: str) -> str:
    """Some files can be read."""
    if len(path) % 2:
        raise ValueError("it is of odd length")
    return f"prompt of {len(path)}"


def open_texts(value: Any) -> Iterator[str]:
    """What an error may show of a document: its keys, the names of agents, and the names of variables."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield key
            if key.casefold() in ("name", "harness") and isinstance(member, str):
                yield member
            yield from open_texts(member)
    elif isinstance(value, list):
        for item in value:
            yield from open_texts(item)
    elif isinstance(value, str):
        yield from re.findall(r"\$\{([^}]+)\}", value)


def table(document: dict[str, Any], name: str) -> Any:
    """The table of that name, in whatever case it is written."""
    return next((value for key, value in document.items() if key.casefold() == name), None)


def check_plan(plan: ProvisionPlan, document: dict[str, Any]) -> None:
    """Every secret and every folder has its request, in the order of the file and in the safe order."""
    secrets = table(document, "secrets")
    assert [(secret.name, secret.value) for secret in plan.secrets] == [
        (name, re.sub(r"\$\{(TOKEN|EMPTY)\}", lambda match: ENVIRONMENT[match[1]], value))
        for name, value in (secrets.items() if isinstance(secrets, dict) else ())
    ]
    assert [(mount.tag, mount.guest_path) for mount in plan.mounts] == [
        (f"share{index}", table(shared, "guest")) for index, shared in enumerate(table(document, "shared") or ())
    ]
    kinds = [type(request) for request in plan.requests]
    assert kinds == sorted(kinds, key=[Mount, InjectSecret, SetConfig].index)
    if SENTINEL not in str([*open_texts(document)]):
        assert all(SENTINEL not in repr(secret) for secret in plan.secrets)
        assert SENTINEL not in str(plan.warnings)


def check_config(plan: ProvisionPlan, document: dict[str, Any]) -> None:
    """The config holds what is known of the file, and no secret."""
    assert plan.config is not None
    config = tomllib.loads(plan.config)
    assert config.keys() <= {*SENT}
    sent = {key: value for key, value in document.items() if key.casefold() in SENT}
    # `[agents.env]` and `prompt_file` may hold a variable, which everyone in the guest can read then.
    if SENTINEL not in str(sent) and "${TOKEN}" not in str(sent):
        assert SENTINEL not in plan.config
    assert "#" in str(sent) or "#" not in plan.config


def check_guest(plan: ProvisionPlan, *, strict: bool) -> None:
    """A guest of either age takes the config, and today's makes of it the agents that are waited for."""
    assert plan.config is not None
    try:
        agents = read_config(plan.config)
        read_config(plan.config, Age.OLDER)
    except ConfigDropped:
        assert not strict
        return
    assert tuple(agent.name for agent in agents) == plan.agents
