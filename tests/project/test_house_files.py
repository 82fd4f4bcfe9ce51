"""Files for services and tools outside say what pyproject.toml says."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (dependency group `docs`)")


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation():
    citation, project = read("CITATION.cff"), PYPROJECT["project"]
    assert citation["title"] == project["name"]
    assert citation["license"] == project["license"]
    assert str(citation["version"]) == project["version"]
    assert citation["abstract"].strip().removesuffix(".") == project["description"]


def test_the_pages_are_published_as_they_are_built_here():
    settings = read(".readthedocs.yaml")
    assert (ROOT / settings["sphinx"]["configuration"]).exists()
    assert settings["sphinx"]["fail_on_warning"] is True
    installs = " ".join(settings["build"]["jobs"]["install"])
    extras = set(re.search(r"\.\[([\w,]+)\]", installs)[1].split(","))
    assert extras == set(PYPROJECT["project"]["optional-dependencies"])
    assert set(re.findall(r"--group (\w+)", installs)) <= set(PYPROJECT["dependency-groups"])


def test_a_commit_is_checked_by_what_make_lint_runs():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for repository in read(".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            command = hook["entry"].removesuffix(" --fix").split("/bin/")[1]
            assert f"$(BIN)/{command}" in makefile


def test_llms_txt_names_every_page(monkeypatch):
    """As Sphinx has them: pages, their titles, their first paragraphs."""
    nodes = pytest.importorskip("docutils.nodes", reason="Sphinx is not installed (dependency group `docs`)")
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    import llms

    class Tree:
        def __init__(self, text):
            self.text = text

        def findall(self, kind):
            assert kind is nodes.paragraph
            return [nodes.paragraph("", self.text)] if self.text else []

    class Env:
        toctree_includes: ClassVar = {"index": ["a", "b"], "b": ["b/c"]}
        titles: ClassVar = {name: nodes.title("", name.upper()) for name in ("index", "a", "b", "b/c")}

        def get_doctree(self, page):
            return Tree({"index": "All of it.", "a": "About\na.", "b": "", "b/c": "word " * 100}[page])

    said = llms.text(Env()).splitlines()
    assert said[:3] == ["# stereos-proto", "", "> All of it."]
    assert said[6:8] == ["- [A](a.html): About a.", "- [B](b.html)"]
    assert said[8].startswith("- [B/C](b/c.html): word word")
    assert said[8].endswith("word …")
    assert len(said[8]) < 330
