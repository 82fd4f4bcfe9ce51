"""What came out of a run, as data, and as text for people and machines."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import attrs

#: What no XML 1.0 document may hold, escaped or not.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Outcome(StrEnum):
    """What became of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class Result:
    """One case: its `name` and `section`, what became of it and why, and how long it took in seconds."""

    name: str
    section: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0


@attrs.frozen
class Report:
    """A whole run against `address`. As text, it shows the cases that failed or were left out, and the summary."""

    address: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether no case failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Result, ...]:
        """The cases that failed."""
        return tuple(result for result in self.results if result.outcome is Outcome.FAILED)

    def count(self, outcome: Outcome) -> int:
        """How many cases had that outcome."""
        return Counter(result.outcome for result in self.results)[outcome]

    @property
    def summary(self) -> str:
        """One line: `tcp://127.0.0.1:1024: 30 passed, 1 failed, 4 skipped in 0.52 s`."""
        counts = ", ".join(f"{self.count(outcome)} {outcome}" for outcome in Outcome)
        return f"{self.address}: {counts} in {self._seconds:.2f} s"

    @property
    def _seconds(self) -> float:
        return sum(result.seconds for result in self.results)

    def __str__(self) -> str:
        """The cases that did not pass, as in `as_table`, and the summary."""
        return self._table(result for result in self.results if result.outcome is not Outcome.PASSED)

    def as_table(self) -> str:
        """A line for each case, with a reason below it where there is one, and the summary."""
        return self._table(self.results) + "\n"

    def _table(self, results: Iterable[Result]) -> str:
        lines = []
        for result in results:
            lines.append(f"{result.outcome:<8}{result.section:<4}{result.name}")
            if result.reason:
                lines.append(f"{'':<12}{result.reason}")
        return "\n".join([*lines, self.summary])

    def as_json(self) -> str:
        """`{"address": …, "ok": …, "counts": {…}, "results": [{"name": …, …}]}`."""
        document: dict[str, Any] = {
            "address": self.address,
            "ok": self.ok,
            "counts": {str(outcome): self.count(outcome) for outcome in Outcome},
            "results": [attrs.asdict(result) for result in self.results],
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def as_junit(self) -> str:
        """The XML that continuous integration understands: one suite, a test case for each case."""
        suite = ElementTree.Element(
            "testsuite",
            name="stereos conformance",
            hostname=_xml(self.address),
            tests=str(len(self.results)),
            failures=str(self.count(Outcome.FAILED)),
            skipped=str(self.count(Outcome.SKIPPED)),
            errors="0",
            time=f"{self._seconds:.3f}",
        )
        for result in self.results:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"stereos.conformance.{result.section}",
                name=_xml(result.name),
                time=f"{result.seconds:.3f}",
            )
            if result.outcome is not Outcome.PASSED:
                kind = "failure" if result.outcome is Outcome.FAILED else "skipped"
                ElementTree.SubElement(case, kind, message=_xml(result.reason))
        ElementTree.indent(suite)
        return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suite, encoding="unicode")}\n'


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
