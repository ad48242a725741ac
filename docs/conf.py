"""The documentation site: the Markdown pages of this folder, docstrings, and the command line's own help.

Nothing is fetched while it is built, and nothing by the pages: no intersphinx, no CDN.
"""

import os
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

# One width of help texts, whatever the terminal; TensorFlow and CuPy are never imported.
os.environ["COLUMNS"] = "100"

default_role = "literal"
highlight_language = "text"
project = "medvlad"
author = "the authors of medvlad"
version = release = version_of("medvlad")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx-mathjax-offline",
]
source_suffix = {".md": "markdown"}

# Links to headings, as in Markdown on the repository's pages.
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Docstrings say types in NumPy's words, "ndarray of shape (n,)", which are no names to be found.
nitpick_ignore_regex = [("py:class|py:exc", r"(?!medvlad\.).*")]
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"medvlad {version}"
html_static_path = ["static"]
html_css_files = ["medvlad.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

_DOCS = Path(__file__).parent
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def _read(app: Any, page: str, source: list[str]) -> None:
    """Take README.md for the page of that name, and links out of this folder for links to files."""
    folder = (_DOCS / page).parent
    if page == "readme":
        folder = _DOCS.parent
        source[0] = (folder / "README.md").read_text("utf-8")

    def place(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if target == _DOCS.parent / "README.md":
            target = _DOCS / "readme.md"
        path = os.path.relpath(target, (_DOCS / page).parent)
        return f"]({path}" if target.is_relative_to(_DOCS) else f"](path:{path}"

    source[0] = _LINK.sub(place, source[0])


def _plain(app: Any, context: Any, lines: list[str]) -> None:
    """Help texts are no reStructuredText: a star is a star, and two hyphens are two."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((".. ", ":")):
            lines[i] = re.sub(r"(?<![\w`-])--[a-z][\w-]*", r"``\g<0>``", re.sub(r"[*|]", r"\\\g<0>", line))


def setup(app: Any) -> None:
    """Connect both."""
    app.connect("source-read", _read)
    for part in ("description", "arguments", "options"):
        app.connect(f"sphinx-click-process-{part}", _plain)
