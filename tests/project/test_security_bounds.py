"""Each bound that SECURITY.md states is the one in the code."""

import importlib
import re
from pathlib import Path

import pytest

import costs
import stereos_proto
import stereos_proto_io
from core import test_codec_json
from stereos_proto import (
    Connection,
    CustomRequest,
    HostSession,
    HybridVsockPreamble,
    LocalProtocolError,
    Mailbox,
    Role,
    _constants,
    _mailbox,
    _redact,
    decode,
    encode,
)
from stereos_proto._codec import canonical, json, tolerant

TEXT = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
#: `| what | 1,024 unit | `module.NAME` |`
ROW = re.compile(
    r"^\| (?P<what>[^|]+) \| (?P<number>[\d,.]+) [^|]*\| `(?P<module>[\w.]+)\.(?P<name>\w+)` \|", re.MULTILINE
)
ROWS = [*ROW.finditer(TEXT)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_stated_bound_is_the_constant(row):
    assert float(row["number"].replace(",", "")) == getattr(importlib.import_module(row["module"]), row["name"])


def test_every_row_of_the_table_is_read():
    table = TEXT.partition("## Bounds")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(ROWS) == len(lines) - 2
    assert len({row["name"] for row in ROWS}) == len(ROWS) >= 12


def limits():
    """What is called a limit anywhere in the source."""
    for package in (stereos_proto, stereos_proto_io):
        for path in Path(package.__file__).parent.rglob("*.py"):
            yield from re.findall(r"^_?MAX_\w+", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_limit_is_stated():
    """A new one is not forgotten here. The length of a path is the system's, and that of bits follows from digits."""
    assert {*limits()} - {"MAX_UNIX_PATH", "_MAX_BITS"} <= {row["name"] for row in ROWS}


def test_every_number_beside_the_table_is_one_that_is_held():
    text = re.sub("`[^`]*`", "", ROW.sub("", TEXT))
    assert {*re.findall(r"\d[\d,.]*", text)} == {
        str(costs.MEMORY_PER_BYTE),
        str(costs.CALLS_PER_BYTE),
        str(_constants.MAX_KEPT_NESTING),
        f"{canonical.MAX_SKIPPED_NESTING:,}",
        *map(str, (_redact.SHORTEST, _redact.PART, _redact.WORD)),
        str(test_codec_json.STACK_KIB),
    }


def test_the_limits_that_a_user_may_change_have_these_defaults():
    connection = Connection(Role.HOST)
    assert connection._max_line_size == _constants.MAX_LINE_SIZE
    assert connection._max_pending == _constants.MAX_PENDING
    assert HostSession().connection._max_pending == _constants.MAX_PENDING
    assert Mailbox()._max_notifications == _mailbox.MAX_NOTIFICATIONS


@pytest.mark.parametrize("port", [0, 1, _constants.U32_MAX])
def test_every_vsock_port_can_be_asked_for(port):
    assert HybridVsockPreamble(port).data_to_send() == b"CONNECT %d\n" % port


@pytest.mark.parametrize("port", [-1, _constants.U32_MAX + 1])
def test_no_other_vsock_port_can(port):
    with pytest.raises(ValueError, match="a vsock port is"):
        HybridVsockPreamble(port)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_whole_number_that_is_sent(sign):
    largest = sign * (2**tolerant._MAX_BITS - 1)
    assert len(str(abs(largest))) <= json._MAX_DIGITS
    request = CustomRequest("x", largest)
    assert decode(encode(request), sender=Role.HOST) == request
    with pytest.raises(LocalProtocolError, match="digits"):
        encode(CustomRequest("x", largest + sign))
