"""Each option that takes a path takes a URL or refuses it by name, and the documentation says which."""

import re

import click
import pytest
from support.documents import ROOT

from medvlad._util.object_path import ObjectPath
from medvlad.cli import cli
from medvlad.cli.paths import LocalPath

PAGE = ROOT / "docs/howto/object_storage.md"

#: Parameters that may name a file as onnx:FILE.
OTHER_FILES = {"--model", "network"}


def every_command(group=cli, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(every_command())
PATHS = [
    (name, parameter)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if isinstance(parameter.type, click.Path)
]


def named(parameter):
    """Return what messages call a parameter."""
    return parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.metavar or parameter.name


def convert(name, parameter, url):
    context = click.Context(COMMANDS[name])
    return parameter.type.convert(url, parameter, context)


@pytest.mark.parametrize(("name", "parameter"), PATHS, ids=[f"{name} {named(p)}" for name, p in PATHS])
def test_a_path_is_taken_by_url_or_refused_by_name(name, parameter):
    """`Path` would make s3:/bucket of a URL, which is a folder of this machine."""
    assert isinstance(parameter.type, LocalPath)
    for url in ("s3://bucket/folder/x.png", "memory://folder/x.png"):
        if parameter.type.urls:
            taken = convert(name, parameter, url)
            assert taken == url if parameter.type.allow_dash else isinstance(taken, ObjectPath)
            assert str(taken) == url
        else:
            with pytest.raises(
                click.UsageError, match=f"^{re.escape(named(parameter))} {url!r} is a URL, and"
            ):
                convert(name, parameter, url)
    with pytest.raises(click.UsageError, match=re.escape(named(parameter))) as raised:
        convert(name, parameter, "s3://key:Secret+key@bucket/x")
    assert "Secret" not in str(raised.value)


def test_no_other_option_names_a_file():
    """An option with a path needs a type of cli/paths.py."""
    found = set()
    for command in COMMANDS.values():
        for one in command.params:
            text = f"{getattr(one, 'metavar', '') or ''} {getattr(one, 'help', '') or ''}"
            if isinstance(one.type, click.types.StringParamType) and re.search(
                r"\b(FILE|FOLDER|DIR)\b", text
            ):
                found.add(one.opts[-1])
    assert found - {"--patient"} == OTHER_FILES


def test_a_network_by_url_is_refused_by_name(run, tmp_path):
    (tmp_path / "images").mkdir()
    for url in ("s3://bucket/net.onnx", "https://host/net.onnx"):
        status, printed, error = run(
            "evaluate", tmp_path / "images", "--model", f"onnx:{url}", "--layer", "x"
        )
        assert (status, printed) == (2, "")
        assert f"the ONNX file {url!r} is a URL" in error


def rows():
    """Return the rows of the table in the documentation."""
    for name in COMMANDS:
        own = [one for command, one in PATHS if command == name]
        if own:
            taken, local = ([named(one) for one in own if one.type.urls is urls] for urls in (True, False))
            yield f"| `{name}` | {_listed(taken)} | {_listed(local)} |"


def _listed(names):
    return ", ".join(f"`{name}`" for name in names).replace("|", "\\|") or "-"


def test_the_table_in_the_documentation_is_that_of_the_parser():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = lines.index("| Command | By URL | Files and folders of this machine only |")
    table = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        table.append(line)
    assert table == list(rows()), "\n".join(rows())
