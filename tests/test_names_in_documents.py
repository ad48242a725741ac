"""Names of functions and modules in docstrings and on pages are names that exist."""

import importlib
import re

import pytest
from support.documents import ROOT

#: Each name in a cross-reference of a docstring, and the first file with it.
REFERENCES = {
    name: path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "medvlad").rglob("*.py"), reverse=True)
    for name in re.findall(
        r":(?:func|class|meth|mod|data|attr|exc):`~?(medvlad[\w.]*)`", path.read_text("utf-8")
    )
}


def exists(name):
    """Return whether a dotted name leads to a module, or to an attribute of one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def test_cross_references_in_docstrings_lead_somewhere():
    assert len(REFERENCES) > 100
    assert not [f"{name} in {path}" for name, path in REFERENCES.items() if not exists(name)]


@pytest.mark.parametrize("name", ["medvlad.predict.predict_bags", "medvlad.nothing", "elsewhere"])
def test_a_name_that_leads_nowhere_is_found(name):
    assert not exists(name)


def test_pages_do_not_name_a_package_as_if_it_were_a_file():
    packages = {path.parent.name for path in (ROOT / "medvlad").glob("*/__init__.py")}
    stale = {
        (page.name, name)
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"`(\w+)\.py`", page.read_text("utf-8"))
        if name in packages
    }
    assert not stale
