"""Deliberate faults: the tests and the fuzzers must find each, to show that they find faults at all.

A fault is a change of one place in the source. It is planted in a copy of `src`, which PYTHONPATH puts before
the real one. `python -m fuzz.planted [NAME ...]` prints which tool finds what, as a table for README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from . import harnesses, planted_ends
from .planted_ends import CORE, Fault

ROOT: Final = Path(__file__).resolve().parent.parent

FAULTS: Final[dict[str, Fault]] = {
    "limit off by one": Fault(
        f"{CORE}/_framing.py", "if end - start >= self._limit:", "if end - start > self._limit:", "framing"
    ),
    "open line off by one": Fault(
        f"{CORE}/_framing.py", "if size - start >= self._limit:", "if size - start > self._limit:", "framing"
    ),
    "carriage return not counted": Fault(
        f"{CORE}/_framing.py",
        "if end - start >= self._limit:",
        'if end - start - (buffer[end - 1 : end] == b"\\r") >= self._limit:',
        "framing",
    ),
    "every carriage return stripped": Fault(
        f"{CORE}/_framing.py",
        "if end > start and buffer[end - 1] == 13:",
        "while end > start and buffer[end - 1] == 13:",
        "framing",
    ),
    "search offset kept over a cut": Fault(f"{CORE}/_framing.py", "        self._searched -= start\n", "", "framing"),
    "search offset one too far": Fault(
        f"{CORE}/_framing.py",
        "self._searched = size = len(buffer)",
        "size = len(buffer)\n                self._searched = size + 1",
        "framing",
    ),
    "last line lost": Fault(
        f"{CORE}/_framing.py", "if not self._eof or start == size:", "if start <= size:", "framing"
    ),
    "reply_to ignored": Fault(
        f"{CORE}/_state.py",
        "return expected is Ack and reply.reply_to == request.type",
        "return expected is Ack",
        "connection",
    ),
    "refusal of another type taken": Fault(
        f"{CORE}/_state.py", 'return reply.reply_to in (request.type, "")', "return True", "connection"
    ),
    "notification settles a call": Fault(
        f"{CORE}/_state.py",
        "            request = pending.popleft()\n",
        "            request = pending.popleft()\n        elif pending:\n            request = pending.popleft()\n",
        "connection",
    ),
    "newest request answered first": Fault(
        f"{CORE}/_state.py", "request = pending.popleft()", "request = pending.pop()", "connection"
    ),
    "pending not bounded": Fault(
        f"{CORE}/_connection.py",
        "len(self._conversation.pending) >= self._max_pending",
        "len(self._conversation.pending) > self._max_pending",
        "connection",
    ),
    "error forgotten": Fault(f"{CORE}/_connection.py", "        self._error = error\n", "", "connection"),
    "malformed line of the guest survived": Fault(
        f"{CORE}/_connection.py",
        "        if self._is_host:\n            # It could",
        "        if self._is_host and not isinstance(error, MalformedLine):\n            # It could",
        "connection",
    ),
    "null is an error": Fault(
        f"{CORE}/_codec/tolerant.py",
        "                elif member is not None:\n",
        "                else:\n",
        "codec",
    ),
    "true is a number": Fault(
        f"{CORE}/_codec/tolerant.py",
        "if type(value) not in (int, NegativeZero):",
        "if not isinstance(value, int):",
        "codec",
    ),
    "minus zero is unsigned": Fault(
        f"{CORE}/_codec/tolerant.py",
        "    if type(value) is not int:\n",
        "    if not isinstance(value, int) or isinstance(value, bool):\n",
        "codec",
    ),
    "range off by one": Fault(
        f"{CORE}/_codec/tolerant.py", "if not low <= value <= high:", "if not low <= value <= high + 1:", "codec"
    ),
    "first duplicate wins": Fault(
        f"{CORE}/_codec/tolerant.py",
        "                    found[name] = read(member)\n",
        "                    found.setdefault(name, read(member))\n",
        "codec",
    ),
    "a second list forgets the first": Fault(
        f"{CORE}/_codec/tolerant.py", "        if memory:\n", "        if memory is None:\n", "codec"
    ),
    "an empty list keeps the memory": Fault(f"{CORE}/_codec/tolerant.py", "            memory.clear()\n", "", "codec"),
    "lone surrogates kept": Fault(
        f"{CORE}/_codec/json.py",
        'return text if text.isascii() else _LONE_SURROGATE.sub("\\ufffd", text)',
        "return text",
        "codec",
    ),
    "depth of a kept value not checked": Fault(
        f"{CORE}/_codec/json.py",
        "    if nests_deeper(line, MAX_KEPT_NESTING):\n",
        "    if nests_deeper(line, MAX_KEPT_NESTING * 4):\n",
        "codec",
    ),
    "value in an error": Fault(
        f"{CORE}/_codec/tolerant.py",
        'raise _mismatch("true or false", value)',
        'raise Unfit(f"must be true or false, not {value!r}")',
        "codec",
    ),
    "line in an error": Fault(
        f"{CORE}/_codec/tolerant.py",
        "line that is not JSON: {exc.reason}",
        "line that is not JSON: {exc.reason} in {line!r}",
        "codec",
    ),
    "handshake takes any word": Fault(
        f"{CORE}/_preamble.py", 'if word != b"OK" or not number.isdigit():', "if not number.isdigit():", "preamble"
    ),
    "bytes after the handshake lost": Fault(
        f"{CORE}/_preamble.py",
        "        del self._buffer[: end + 1]\n        self._done",
        "        del self._buffer[: end + 2]\n        self._done",
        "preamble",
    ),
    "any ack ends a resynchronisation": Fault(
        f"{CORE}/_preamble.py",
        "return isinstance(message, Ack) and message.reply_to == self._type",
        "return isinstance(message, Ack)",
        "preamble",
    ),
    "secrets sent in the config": Fault(
        f"{CORE}/_jcard_plan.py",
        '            "network": network,\n',
        '            "network": network,\n            "secrets": self._file.get("secrets") or {},\n',
        "jcard",
    ),
    "two replicas counted as one": Fault(
        f"{CORE}/_jcard_agents.py", "if replicas > 1 else [name]", "if replicas > 2 else [name]", "jcard"
    ),
    "secret quoted in an error": Fault(
        f"{CORE}/_jcard_text.py",
        'self.error(f"invalid TOML: {_anonymous(reason)}", line)',
        'self.error(f"invalid TOML: {reason} in {self._text}", line)',
        "jcard",
    ),
    **planted_ends.FAULTS,
}
#: The first test that saw each fault, as `--record` found it.
FOUND_BY: Final = Path(__file__).with_name("planted.json")
#: The tests that run if those of the module itself find nothing. The replay of the fuzzers' inputs is not among them.
SUITE: Final = tuple(
    f"tests/core/test_{name}.py"
    for name in ("json_oracle", "vectors", "properties", "codec", "connection", "host_session", "jcard", "hostile")
)
SECONDS: Final = 60
#: The tests as they are asked about a fault.
PYTEST: Final = (
    *("pytest", "-x", "-q", "--no-header", "-m", "not vm", "-p", "fuzz.quick", "--hypothesis-profile", "quick"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
#: What stands in the place of a test when there is none.
MISSED: Final = "**not found**"


@contextmanager
def planted(name: str) -> Iterator[dict[str, str]]:
    """An environment in which Python imports the library with one fault."""
    fault = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        path = source / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.old) != 1:
            raise ValueError(f"{name}: the place is there {text.count(fault.old)} times in {fault.file}")
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        yield {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}


def run(environment: dict[str, str], *command: str) -> tuple[int, str]:
    """The exit code and the output of a module."""
    done = subprocess.run(
        (sys.executable, "-m", *command),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def by_suite(environment: dict[str, str], fault: Fault) -> str:
    """The first test that fails: in the files that the fault names, or in the module's own, else in `SUITE`."""
    parts = [part.strip("_") for part in Path(fault.file).with_suffix("").parts[1:] if part != "__init__"]
    own = f"tests/core/test_{'_'.join(parts)}.py"
    for targets in [fault.tests] if fault.tests else [(own,), SUITE]:
        there = [target for target in targets if (ROOT / target).exists()]
        code, output = run(environment, *PYTEST, *there) if there else (0, "")
        failed = re.search(r"(?:FAILED|ERROR) (\S+)", output)
        if code and failed:
            return failed[1].split("[")[0]
    return MISSED


def record(names: list[str]) -> int:
    """Write down which test finds each fault, in `FOUND_BY`; return 1 when none finds one."""
    found: dict[str, str] = json.loads(FOUND_BY.read_text()) if FOUND_BY.exists() else {}
    for name in names:
        with planted(name) as environment:
            found[name] = by_suite(environment, FAULTS[name])
        print(f"{name}: {found[name]}", flush=True)
        kept = {known: found[known] for known in FAULTS if known in found}
        FOUND_BY.write_text(json.dumps(kept, indent=1) + "\n")
    return int(MISSED in found.values())


def by_fuzzer(environment: dict[str, str], fault: Fault, mode: str) -> str:
    """How many executions a fuzzer needs."""
    with tempfile.TemporaryDirectory() as folder:
        options = [fault.harness, "--seconds", str(SECONDS), "--mode", mode, "--seed", "1"]
        options += ["--corpus", f"{folder}/corpus", "--artifacts", f"{folder}/artifacts"]
        if mode == "raw":
            options.append("--no-seeds")
        code, output = run(environment, "fuzz.run", *options)
    executed = re.search(r"number_of_executed_units: (\d+)", output) or re.search(r"#(\d+)\s+(?!.*#\d)", output)
    number = executed[1] if executed else "?"
    if not code:
        return f"no ({number})"
    last = re.findall(r"^#(\d+)\s", output, re.MULTILINE)
    return f"yes, before {int(last[-1]) * 2 if last else 'the first'}" if not executed else f"yes, {number}"


def keep(name: str) -> None:
    """Keep a small input that finds a fault, where those that are kept do not find it yet."""
    fault = FAULTS[name]
    if not fault.harness:
        return
    with planted(name) as environment, tempfile.TemporaryDirectory() as folder:
        if run(environment, "fuzz.replay", fault.harness)[0]:
            return
        options = ["--seconds", str(SECONDS), "--mode", "structured", "--artifacts", folder, "--corpus", f"{folder}/c"]
        run(environment, "fuzz.run", fault.harness, *options)
        for crash in Path(folder).glob("crash-*"):
            run(environment, "fuzz.replay", fault.harness, "--shrink", str(crash))
            target = harnesses.CRASHES / fault.harness / f"planted-{name.replace(' ', '-')}"
            target.parent.mkdir(parents=True, exist_ok=True)
            crash.replace(target)
            print(f"{target}: {target.stat().st_size} bytes", flush=True)


def main() -> int:
    """Print the table; return 1 when something was missed."""
    parser = argparse.ArgumentParser(prog="fuzz.planted")
    parser.add_argument("names", nargs="*", default=[*FAULTS])
    parser.add_argument("--no-suite", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep an input for each fault, and print no table")
    parser.add_argument("--record", action="store_true", help="write down the tests that find them; runs no fuzzer")
    options = parser.parse_args()
    if options.record:
        return record(options.names)
    if options.keep:
        for name in options.names:
            keep(name)
        return 0
    missed = 0
    print(
        "| fault | harness | tests | structured, 60 s | raw bytes from nothing, 60 s |\n|---|---|---|---|---|",
        flush=True,
    )
    for name in options.names:
        fault = FAULTS[name]
        with planted(name) as environment:
            suite = "" if options.no_suite else by_suite(environment, fault)
            modes = ("structured", "raw")
            structured, raw = (by_fuzzer(environment, fault, mode) if fault.harness else "" for mode in modes)
        missed += suite.startswith("*") or structured.startswith("no")
        print(f"| {name} | {fault.harness} | {suite} | {structured} | {raw} |", flush=True)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
