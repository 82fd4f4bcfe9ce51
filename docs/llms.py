"""`llms.txt`: what each page is about, for programs that read documentation (https://llmstxt.org)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes

#: Characters of a page's first paragraph that are kept.
_LENGTH = 300


def write(app: Any, exception: Exception | None) -> None:
    """Write `llms.txt` beside the pages, once they are built."""
    if exception is None and app.builder.name == "html":
        Path(app.outdir, "llms.txt").write_text(text(app.env), encoding="utf-8")


def text(env: Any) -> str:
    """One line for each page of the table of contents, in its order, with the page's first paragraph."""
    lines = ["# stereos-proto", "", f"> {_about(env, 'index')}", "", "## Pages", ""]
    lines += [
        f"- [{env.titles[page].astext()}]({page}.html): {_about(env, page)}".removesuffix(": ")
        for page in _in_order(env, "index")
    ]
    return "\n".join(lines) + "\n"


def _in_order(env: Any, page: str) -> list[str]:
    pages = []
    for child in env.toctree_includes.get(page, []):
        pages += [child, *_in_order(env, child)]
    return pages


def _about(env: Any, page: str) -> str:
    paragraph = next(iter(env.get_doctree(page).findall(nodes.paragraph)), None)
    said = " ".join(paragraph.astext().split()) if paragraph is not None else ""
    return said if len(said) <= _LENGTH else f"{said[:_LENGTH].rpartition(' ')[0]} …"
