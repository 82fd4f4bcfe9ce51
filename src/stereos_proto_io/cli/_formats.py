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
_FIELD: Final = re.compile(r"\{(\w*)\}")
_ESCAPES: Final = {"\\n": "\n", "\\t": "\t"}


@Parameter(name="*")
@attrs.frozen(eq=False, repr=False)
class Out:
    """How the result is written."""

    output: Annotated[str | None, option("--output", "-o", takes="FORMAT", group=OUTPUT)] = attrs.field(
        default=None, kw_only=True
    )
    """wide, json, jsonl, name, or template='{name} {state}'. By default what people read best."""

    json: Annotated[bool, option("--json", group=OUTPUT)] = attrs.field(default=False, kw_only=True)
    """Print one JSON document; with many guests an array. The same as -o json."""

    @property
    def kind(self) -> str:
        """One of KINDS, `template`, or "" for people. Raises UsageError."""
        if self.output is None:
            return "json" if self.json else ""
        if self.json and self.output != "json":
            raise UsageError("--json and -o exclude each other")
        if self.output.startswith(_TEMPLATE):
            return "template"
        if self.output not in KINDS:
            raise UsageError(f"-o takes one of {', '.join(KINDS)}, {_TEMPLATE}TEXT, not {self.output!r}")
        return self.output

    @property
    def is_json(self) -> bool:
        """Whether a program reads it as JSON. Raises UsageError."""
        return self.kind in ("json", "jsonl")

    def check(self, fields: tuple[str, ...]) -> None:
        """See that a template has only these fields, before anything is asked. Raises UsageError."""
        if self.kind != "template":
            return
        unknown = sorted({name for name in _FIELD.findall(self._template) if name not in fields})
        if unknown:
            named = ", ".join(f"{{{name}}}" for name in unknown)
            raise UsageError(f"a template knows no {named}; it knows {', '.join(fields)}")

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
        print_lines([_FIELD.sub(lambda match: shown[match[1]], text)])


DEFAULT_OUT: Final = Out()
