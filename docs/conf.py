"""How Sphinx builds these pages: `make docs`. What the pages include from `_generated` is made by generate.py."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import backlinks  # noqa: E402  (found by the line before)
import generate  # noqa: E402
import llms  # noqa: E402

project = "stereos-proto"
author = "the stereos-proto authors"
project_copyright = author
release = version = importlib.metadata.version("stereos-proto")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "reference"]
# Buttons that copy what is typed, without prompts and answers. A distribution may build the pages without them.
if importlib.util.find_spec("sphinx_copybutton"):
    extensions.append("sphinx_copybutton")
    copybutton_prompt_text = r"\$ |>>> |\.\.\. "
    copybutton_prompt_is_regexp = True
    copybutton_only_copy_prompt_lines = True
# Links into the documentation of others are made where the pages are published. A build anywhere else needs no network.
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
        "attrs": ("https://www.attrs.org/en/stable", None),
    }
exclude_patterns = ["_build", "_generated", "_figures"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "stereos-proto"
# The text of a page is of no use to its readers.
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["stereos.css"]

# Docstrings mark code with single backticks. Where the code is a name that is documented here, it becomes a link.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autoclass_content = "both"
autodoc_typehints_format = "short"
autodoc_type_aliases = {
    "U32": "int",
    "I64": "int",
    "StateName": "str",
    "Event": "stereos_proto.Event",
    "Address": "stereos_proto_io.addresses.Address",
}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100


def setup(app: Any) -> None:
    """Make what the pages include, before they are read, and `llms.txt` of them afterwards."""
    generate.main(HERE / "_generated")
    app.connect("build-finished", llms.write)
    # After viewcode, which writes the source pages.
    app.connect("build-finished", backlinks.remove, priority=900)
