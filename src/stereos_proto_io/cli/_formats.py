"""`-o`: how results are written. `wide`, `json`, `jsonl`, `name`, or a template of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter

from ._console import clean, print_lines
from ._errors import UsageError
from ._options import OUTPUT, option
from ._output import write_json

KINDS: Final = ("wide", "json", "jsonl", "name")
_TEMPLATE: Final = "template="
#: The parts of a template that are no plain text: a brace written twice, what stands in braces, a brace alone.
_PART: Final = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]*)\}|(?P<alone>[{}])")
_NAME: Final = re.compile(r"\w*")
_ESCAPES: Final = {"\\n": "\n", "\\t": "\t"}

#: The option `-o`. The help itself names the formats.
FORMAT: Final = option("--output", "-o", takes="FORMAT", group=OUTPUT, show_choices=False)


@Parameter(name="*")
@attrs.frozen(eq=False, repr=False)
class Out:
    """How the result is written."""

    output: Annotated[str | None, FORMAT] = attrs.field(default=None, kw_only=True)
    """wide, json, jsonl, name, or template='{name} {state}'. By default what people read best."""

    json: Annotated[bool, option("--json", group=OUTPUT)] = attrs.field(default=False, kw_only=True)
    """Print one JSON document; with many guests an array. The same as -o json."""

    @property
    def kind(self) -> str:
        """One of KINDS, `template`, or "" for people. Raises UsageError."""
        if self.output is None:
            return "json" if self.json else ""
        if self.json and self.output != "json":
            raise UsageError("--json and -o cannot be combined")
        if self.output.startswith(_TEMPLATE):
            return "template"
        if self.output not in KINDS:
            raise UsageError(f"-o takes one of {', '.join(KINDS)}, {_TEMPLATE}TEXT, not {self.output!r}")
        return self.output

    @property
    def for_people(self) -> bool:
        """Whether people read it. Raises UsageError."""
        return self.kind in ("", "wide")

    @property
    def is_json(self) -> bool:
        """Whether a program reads it as JSON. Raises UsageError."""
        return self.kind in ("json", "jsonl")

    def check(self, fields: tuple[str, ...]) -> None:
        """See that a template has only these fields, before anything is asked. Raises UsageError."""
        if self.kind != "template":
            return
        unknown: list[str] = []
        refused: list[str] = []
        for part in _PART.finditer(self._template):
            if part["alone"]:
                refused.append(f"{part[0]} alone")
            elif part["field"] is not None and part["field"] not in fields:
                (unknown if _NAME.fullmatch(part["field"]) else refused).append(part[0])
        wrong = [
            f"{verb} {', '.join(dict.fromkeys(parts))}"
            for verb, parts in (("knows no", unknown), ("cannot have", refused))
            if parts
        ]
        if wrong:
            known = ", ".join(f"{{{name}}}" for name in fields)
            raise UsageError(
                f"a template {', and '.join(wrong)}; it knows {known}, each without a format; "
                "{{ and }} stand for braces"
            )

    @property
    def _template(self) -> str:
        return (self.output or "").removeprefix(_TEMPLATE)

    def write_document(self, document: object) -> None:
        """Write one JSON document."""
        write_json(document, indent=self.kind == "json")

    def write_line(self, values: Mapping[str, Any]) -> None:
        """Write one guest in a line: its name, or the template."""
        if self.kind == "name":
            print_lines([clean(str(values["name"]))])
            return
        # What the guest says is cleaned; what the user wrote may break lines.
        text = self._template
        for escape, char in _ESCAPES.items():
            text = text.replace(escape, char)
        shown = {name: "" if value is None else clean(str(value)) for name, value in values.items()}
        print_lines([_PART.sub(lambda part: part[0][0] if part["brace"] else shown[part["field"]], text)])


DEFAULT_OUT: Final = Out()
