"""Types of paths on the command line. Like cli/options.py, this module imports no other room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["INPUTS", "PATH", "PATH_OR_URL", "TEXT_PATH_OR_URL", "LocalPath"]


class LocalPath(click.Path):
    """A path on this machine, and not "-", which is no file.

    A URL is refused before `Path` takes one of its slashes away, or becomes the path of an object if `urls`.

    Parameters
    ----------
    urls : bool, default=False
        Whether URLs are taken.
    **settings
        Those of click.Path.
    """

    def __init__(self, *, urls: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.urls = urls

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        from medvlad._util.object_path import location
        from medvlad._util.urls import is_url
        from medvlad._util.validate import InputError, check_local

        name = "the path" if param is None else param.metavar or str(param.name)
        if isinstance(param, click.Option):
            name = param.opts[-1]
        try:
            if self.urls and is_url(value):
                path = location(value, name)
                return value if self.allow_dash else path
            check_local(value, name)
        except InputError as error:
            raise click.UsageError(str(error)) from error
        if value == "-" and not self.allow_dash:
            may_miss = isinstance(param, click.Option) and not param.required
            raise click.UsageError(
                f"{name} - would be a file of that name: give a path (./- for such a file)"
                + (f", or leave {name} out" if may_miss else "")
            )
        return super().convert(value, param, ctx)


PATH = LocalPath(path_type=Path)
PATH_OR_URL = LocalPath(path_type=Path, urls=True)
TEXT_PATH_OR_URL = LocalPath(path_type=str, urls=True)
INPUTS = LocalPath(path_type=str, allow_dash=True, urls=True)
