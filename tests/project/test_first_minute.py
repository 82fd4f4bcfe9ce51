"""What a reader tries first works as it is printed: in a folder of their own, with nothing else at hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if not path.parts[-2].startswith("_"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Seconds that a snippet may take, the start of Python included. None waits for anything but a simulated guest.
PATIENCE = 60
FIRST = "pip install 'stereos-proto[cli]'"
#: A guest that a page lets its reader start in a second terminal before the first snippet.
SECOND_TERMINAL = re.compile(r"^stereosctl simulate .*tcp://127\.0\.0\.1:\d+$", re.MULTILINE)


def blocks(path):
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def snippets():
    """All of the README, which are for copying one by one, and the first of each page."""
    for path in (README, *PAGES):
        found = blocks(path)
        numbers = [
            number
            for number, (language, text) in enumerate(found)
            if language == "python" and "\ndef test_" not in text
        ]
        for number in numbers if path == README else numbers[:1]:
            after = found[number + 1] if number + 1 < len(found) else ("", "")
            said = after[1] if after[0] == "text" else ""
            yield pytest.param(path, found[number][1], said, id=f"{path.relative_to(ROOT)}-{number}")


def run(folder, text):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    line = (sys.executable, "-X", "dev", "-W", "error", "-c", text)
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(("page", "text", "said"), list(snippets()))
def test_a_first_snippet_runs_by_itself(tmp_path, page, text, said):
    if SECOND_TERMINAL.search(page.read_text(encoding="utf-8")):
        pytest.skip("the page starts a guest in a second terminal; tests/project/test_docs.py runs it beside one")
    done = run(tmp_path, text)
    assert done.returncode == 0, done.stderr
    expected = ".*".join(map(re.escape, said.strip().split("...")))
    assert re.fullmatch(expected, done.stdout.strip(), re.DOTALL) or not said


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "index.md"], ids=["README", "index"])
def test_the_first_thing_is_the_demo(page):
    _, text = blocks(page)[0]
    assert text.replace("$ ", "").strip().replace("\n", " && ") == f"{FIRST} && stereosctl demo"


def test_the_readme_is_whole_on_a_package_index():
    """There, a relative link or image leads nowhere, and nobody has a Makefile before the section about a checkout."""
    text = README.read_text(encoding="utf-8")
    assert [
        target for target in re.findall(r"\]\(([^)]+)\)|<img[^>]+src=\"([^\"]+)", text) if "://" not in str(target)
    ] == []
    before, _, after = text.partition("## In a checkout")
    assert "make " not in "".join(body for _, body in BLOCK.findall(before))
    assert "$ make demo" in after
    assert "$ make test" in after
