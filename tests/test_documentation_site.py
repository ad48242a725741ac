"""The documentation as a whole: links, tables of contents, the interface, the site, and tables of figures."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys

import pytest
from support.documents import PAGES, ROOT, name_of


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{name_of(page)}: {target}"


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for index in (ROOT / "docs" / "index.md", ROOT / "docs" / "howto" / "index.md"):
        for table in re.findall(r"```\{toctree\}\n(.*?)```", index.read_text("utf-8"), re.DOTALL):
            names = [re.sub(r".*<(.+)>", r"\1", line) for line in table.splitlines() if line[:1] not in ":"]
            listed |= {(index.parent / name).with_suffix(".md") for name in names if name}
    assert listed | {ROOT / "docs" / "index.md"} == set(PAGES[1:])


def full_name(thing, name):
    """Name of a class or function with the module that defines it."""
    return f"{getattr(thing, '__module__', '')}.{name}"


def test_every_public_name_is_in_the_interface():
    text, here, written = (ROOT / "docs" / "api.md").read_text("utf-8"), "", set()
    for directive, name in re.findall(r"^\.\. (\w+):: ([\w.]+)", text, re.MULTILINE):
        here = name if directive == "currentmodule" else here
        if directive in ("autoclass", "autofunction", "autoexception", "autodata"):
            found = getattr(importlib.import_module(here), name) if "." not in name else None
            assert found is None or directive == "autodata" or inspect.getdoc(found), name
            written.add(f"{here}.{name}")
    for room in (
        "",
        ".audit",
        ".datasets",
        ".decisions",
        ".distributed",
        ".evaluation",
        ".explain",
        ".models",
        ".store",
    ):
        package = importlib.import_module(f"medvlad{room}")
        homes = {name: getattr(package, name) for name in package.__all__}
        own = {
            name
            for name, home in homes.items()
            if not written & {f"medvlad.{name}", f"medvlad{room}.{name}", full_name(home, name)}
        }
        assert not own, room


def test_every_mathematics_has_its_file():
    """Headings of the page are made of the files they link to."""
    text = (ROOT / "docs" / "mathematics.md").read_text("utf-8")
    links = re.findall(r"^\[medvlad/(.+)\.py\]", text, re.MULTILINE)
    modules = re.findall(r"automodule:: medvlad\.(.+)$", text, re.MULTILINE)
    assert [link.replace("/", ".") for link in links] == modules
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(modules)


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing(tmp_path):
    """As `make docs` has it: warnings are errors, and so are links that lead nowhere."""
    for module in ("sphinx", "myst_parser", "furo", "sphinx_click", "sphinx-mathjax-offline"):
        pytest.importorskip(module, reason="needs the extra docs")
    arguments = ["-q", "-W", "--keep-going", "-n", "-d", tmp_path / "trees", ROOT / "docs", tmp_path / "site"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:  # they work without a network
        loaded = re.findall(
            r"<(?:script|img|link)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+", page.read_text("utf-8")
        )
        assert not loaded, f"{page.name}: {loaded[0]}"


def test_tables_are_what_the_result_files_say():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_table_that_is_stale_is_noticed(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    readme = (ROOT / "README.md").read_text("utf-8")
    stale = re.sub(r"(<!-- table: speed -->.*?\|) \d+\.", r"\1 12345.", readme, flags=re.DOTALL)
    assert stale != readme
    (tmp_path / "README.md").write_text(stale, "utf-8")
    command = [sys.executable, tmp_path / "docs" / "tables.py"]
    told = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert (told.returncode, "README.md" in told.stderr) == (1, True)
    subprocess.run(command, check=True)
    assert (tmp_path / "README.md").read_text("utf-8") == (ROOT / "README.md").read_text("utf-8")
