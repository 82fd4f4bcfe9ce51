"""What Sphinx does with names: signatures as a reader wants them, and links from every name to its reference."""

from __future__ import annotations

import enum
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

import attrs
from docutils import nodes
from generate import LINKED, public_names
from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature

import stereos_proto
from stereos_proto_io.blocking import Client

PROTOCOL = "protocol"
_ERRORS = {
    name: f"stereos_proto.{name}"
    for name in stereos_proto.__all__
    if inspect.isclass(getattr(stereos_proto, name)) and issubclass(getattr(stereos_proto, name), Exception)
}
#: What becomes a link in running text: a section of the protocol, and the errors that docstrings name.
_IN_TEXT = re.compile(rf"§(?P<section>\d+)|\b(?P<error>{'|'.join(_ERRORS)})\b")


def names() -> dict[str, str]:
    """What is written in backticks → the full name in the reference."""
    found = {}
    for module in LINKED:
        for name in public_names(module):
            full = f"{module.__name__}.{name}"
            thing = getattr(module, name)
            if not hasattr(Client, name):  # whose verb is meant then, not the dialogue below it
                found.setdefault(name, full)
            if inspect.isclass(thing) and not issubclass(thing, enum.Enum):
                members = (member for member in vars(thing) if not member.startswith("_"))
                found |= {f"{name}.{member}": f"{full}.{member}" for member in members}
    return found


_NAMES = names()


def show_signature(
    _app: Sphinx, what: str, _name: str, thing: Any, _options: Any, arguments: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """An exception as it is made, and defaults by their values instead of the names that the code has for them."""
    if arguments is None:
        return None
    if what == "exception":
        if not inspect.isfunction(thing.__init__):
            return "", None
        made = signature(thing.__init__, bound_method=True)
        return stringify_signature(made, show_return_annotation=False, unqualified_typehints=True), None

    def default_of_field(match: re.Match[str]) -> str:
        default: Any = attrs.fields_dict(thing)[match[1]].default
        return f"{default.factory.__name__}()" if hasattr(default, "factory") else repr(default)

    def value_of_number(match: re.Match[str]) -> str:
        value = getattr(sys.modules[thing.__module__], match[1], None)
        if not isinstance(value, int | float):
            return match[0]
        return f"= 0o{value:o}" if match[1].endswith("MODE") else f"= {value}"

    if returns:
        # What is left of an alias that stands within another type.
        returns = re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"~\1", returns)
    if attrs.has(thing):
        arguments = re.sub(r"attr_dict\['(\w+)'\]\.default", default_of_field, arguments)
    return re.sub(r"= ([A-Z][A-Z_]+)\b", value_of_number, arguments), returns


def number_sections(_app: Sphinx, tree: nodes.document) -> None:
    """Give the sections of the protocol anchors by their numbers, such as `#s3`, which never change."""
    if tree.settings.env.docname != PROTOCOL:
        return
    for section in tree.findall(nodes.section):
        if found := re.match(r"(\d+)\. ", section[0].astext()):
            section["ids"].append(f"s{found[1]}")


#: Where no links are made.
_QUIET = (nodes.title, nodes.reference, nodes.literal_block, nodes.raw)


def lies_within(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    """Whether one of the nodes around `node` is of one of these kinds."""
    while node := node.parent:
        if isinstance(node, kinds):
            return True
    return False


@attrs.frozen
class Linker:
    """Makes links on one page."""

    app: Sphinx
    page: str

    def uri(self, page: str, anchor: str) -> str:
        """The address of an anchor, as seen from here."""
        return f"{'' if page == self.page else self.app.builder.get_relative_uri(self.page, page)}#{anchor}"

    def link(self, full: str, child: nodes.Node) -> nodes.Node:
        """`child` as a link to the reference of `full`, or as it is where there is none."""
        entry = self.app.env.domains["py"].objects.get(full)  # type: ignore[attr-defined]
        if entry is None:
            return child
        uri = self.uri(entry.docname, entry.node_id)
        return nodes.reference("", "", child, refuri=uri, internal=True, reftitle=full)

    def pieces(self, text: str) -> Iterator[nodes.Node]:
        """`text` with its links."""
        at = 0
        for match in _IN_TEXT.finditer(text):
            yield nodes.Text(text[at : match.start()])
            word = nodes.Text(match[0])
            if match["error"]:
                yield self.link(_ERRORS[match["error"]], word)
            else:
                uri = self.uri(PROTOCOL, f"s{match['section']}")
                yield nodes.reference("", "", word, refuri=uri, internal=True)
            at = match.end()
        yield nodes.Text(text[at:])


def link_names(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Make links of the names in backticks, and of sections and errors in the text, wherever they stand."""
    linker = Linker(app, page)
    for literal in list(tree.findall(nodes.literal)):
        full = _NAMES.get(literal.astext())
        if full and not lies_within(literal, *_QUIET):
            literal.replace_self(linker.link(full, literal.deepcopy()))
    for text in list(tree.findall(nodes.Text)):
        if _IN_TEXT.search(text) and not lies_within(text, *_QUIET, nodes.literal):
            text.parent.replace(text, list(linker.pieces(text.astext())))


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", show_signature)
    app.connect("doctree-read", number_sections)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True}
