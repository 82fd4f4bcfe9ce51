"""From a jcard.toml to a plan (§10): no secret in the config or in an error, and nothing else is lost."""

from __future__ import annotations

import itertools
import re
import tomllib
from functools import partial
from typing import Any

from stereos_proto import InjectSecret, JcardError, LocalProtocolError, Mount, ProvisionPlan, SetConfig, load_jcard
from stereos_proto._toml import statements, without_table

from .secrecy import SENTINEL, shown
from .source import outcome, split

HEAD = 1
BODY = "toml"
LONGEST = 160

ENVIRONMENT = {"TOKEN": f"{SENTINEL}-from-outside", "EMPTY": ""}


def check(data: bytes) -> None:
    """Raise AssertionError when an invariant of reading a jcard does not hold for `data`."""
    head, body = split(data, HEAD)
    text = body.decode("utf-8", "surrogateescape" if head[0] & 1 else "replace")
    try:
        document: dict[str, Any] | None = tomllib.loads(text, parse_float=str)
    except (ValueError, RecursionError):
        document = None
    plan = outcome(partial(load_jcard, text, env=ENVIRONMENT))
    if isinstance(plan, Exception):
        assert type(plan) in (JcardError, LocalProtocolError)
        assert SENTINEL not in shown(plan) or SENTINEL in str(names(document))
        return
    assert document is not None
    check_plan(plan, document)
    check_cut(text, plan, document)


def names(value: Any) -> list[str]:
    """All keys of a document: those, errors may show."""
    if isinstance(value, dict):
        return [name for key, member in value.items() for name in (key, *names(member))]
    if isinstance(value, list):
        return [name for item in value for name in names(item)]
    return []


def check_plan(plan: ProvisionPlan, document: dict[str, Any]) -> None:
    """Every secret and every folder has its request, in the order of the file and in the safe order."""
    assert [(secret.name, secret.value) for secret in plan.secrets] == [
        (name, value.replace("${TOKEN}", ENVIRONMENT["TOKEN"]).replace("${EMPTY}", ""))
        for name, value in document.get("secrets", {}).items()
    ]
    assert [(mount.tag, mount.guest_path) for mount in plan.mounts] == [
        (f"share{index}", shared["guest"]) for index, shared in enumerate(document.get("shared", ()))
    ]
    kinds = [type(request) for request in plan.requests]
    assert kinds == sorted(kinds, key=[Mount, InjectSecret, SetConfig].index)
    if SENTINEL not in str(names(document)):
        assert all(SENTINEL not in repr(secret) for secret in plan.secrets)


def check_cut(text: str, plan: ProvisionPlan, document: dict[str, Any]) -> None:
    """The config is the file less its secrets, and not a byte less."""
    config = plan.config
    assert config is not None
    kept = {name: value for name, value in document.items() if name != "secrets"}
    assert tomllib.loads(config, parse_float=str) == kept
    assert without_table(config, "secrets") == config
    if "secrets" not in document:
        assert config == text
    before, header, table = text.partition("\n[secrets]\n")
    section, _, after = f"\n{table}".partition("\n[")
    if header and SENTINEL not in before + after and not re.search("\"\"\"|'''|\r", text):
        # The settings that are commented out go with the table: such a secret is still a secret.
        hidden = [line for line in section.split("\n") if SENTINEL in line and ("=" in line or line[:1] != "#")]
        assert not any(line in config for line in hidden)
    places = statements(text)
    assert all(one.end <= two.start for one, two in itertools.pairwise(places))
    rest = iter(text)
    assert all(character in rest for character in config)
