"""Links from source pages back to the reference that lead nowhere are taken out: viewcode makes one for every object,
also for those that the reference shows under another module, or not at all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_BACK = re.compile(r'<a class="viewcode-back" href="([^"#]+)#([^"]+)">\[docs\]</a>')
#: The list of source pages has one entry for what is in no module.
_BUILTINS = re.compile(r'<li><a href="builtins\.html">builtins</a></li>\n?')


def remove(app: Any, exception: Exception | None) -> None:
    """Look at each source page, once all are built."""
    if exception is not None or app.builder.name != "html":
        return
    pages: dict[Path, str] = {}
    for path in Path(app.outdir, "_modules").rglob("*.html"):
        text = path.read_text(encoding="utf-8")

        def kept(link: re.Match[str], home: Path = path.parent) -> str:
            target = (home / link[1]).resolve()
            if target not in pages:
                pages[target] = target.read_text(encoding="utf-8") if target.exists() else ""
            return link[0] if f'id="{link[2]}"' in pages[target] else ""

        cleaned = _BACK.sub(kept, _BUILTINS.sub("", text))
        if cleaned != text:
            path.write_text(cleaned, encoding="utf-8")
