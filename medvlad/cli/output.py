"""Folders of results that --out names: a folder of this machine, or the URL of one in object storage.

Results for object storage are written to a temporary folder first, and put there when the command is done.
The file that says that all is there, such as results.json, is removed first and put last. So a reader never
takes a part of a report for a whole one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

__all__ = ["Output", "output_folder"]


class Output:
    """Where a command writes its results.

    Attributes
    ----------
    folder : Path
        Folder of this machine to write to.
    out : Path
        Folder that the user named.
    """

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = folder, out

    def shown(self, text: str) -> str:
        """Return a text with the folder that the user named in place of the temporary one."""
        return text.replace(str(self.folder), str(self.out))


@contextmanager
def output_folder(
    out: Path | None,
    *images: Path,
    results: Sequence[str],
    overwrite: bool,
    anonymous: bool = False,
    name: str = "--out",
) -> Iterator[Output | None]:
    """Check the folder for results before the work begins, and put the results there at the end.

    Parameters
    ----------
    out : Path or None
        Folder or URL. None: nothing is written.
    *images : Path
        Folders of images, in which results must not lie.
    results : sequence of str
        Files that the command writes. The first one is put last.
    overwrite : bool
        Whether results of an earlier run may be replaced.
    anonymous : bool, default=False
        Whether the folder must be empty, because other files may name images.
    name : str, default="--out"
        What messages call the folder.

    Raises
    ------
    InputError, click.UsageError
        If nothing can be written there, or it holds results of an earlier run.
    """
    from medvlad._util.object_path import ObjectPath, check_output, outside
    from medvlad._util.validate import InputError, check_output_file, make_output_folder

    if out is None:
        yield None
        return
    if not isinstance(out, ObjectPath):
        local = [root for root in images if not isinstance(root, ObjectPath)]
        make_output_folder(out, name, *local, results=results, overwrite=overwrite or anonymous)
        check_output_file(out / results[0], "results")
        yield Output(out, out)
        return
    outside(out, name, *images)
    check_output(out / results[0], "results")
    try:
        held = _names_in(out)
    except OSError as error:
        raise InputError(f"{out} cannot be listed ({error.strerror}): choose another place") from None
    if anonymous and held:
        raise click.UsageError(
            f"{out} holds files, which may name images: with --anonymise give a new or an empty folder"
        )
    if not overwrite and (earlier := [one for one in results if one in held]):
        raise InputError(
            f"{name} {out} holds {earlier[0]} of an earlier run: give another folder, or --overwrite to "
            "replace its results"
        )
    folder = Path(tempfile.mkdtemp(prefix="medvlad-"))
    try:
        yield Output(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _publish(folder, out, results)
    shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, out: Any, results: Sequence[str]) -> None:
    """Put all files of a folder below a URL, the first of `results` last. Remove what they replace."""
    from medvlad._util.object_storage import remove
    from medvlad._util.validate import InputError, one_line
    from medvlad.report.kept import is_figure

    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    files.sort(key=lambda file: file == folder / results[0])
    written = {file.relative_to(folder).as_posix() for file in files}
    try:
        for one in results:
            remove((out / one).url)
        for one in _names_in(out / "figures"):
            if is_figure(one) and f"figures/{one}" not in written:
                remove((out / "figures" / one).url)
        for file in files:
            (out / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(
            f"the results cannot be put into {out} ({reason}): they are complete in {folder}, so copy them "
            "from there, and remove that folder"
        ) from None
    except KeyboardInterrupt as error:
        error.add_note(f"the results are complete in {folder}: copy them from there, and remove that folder")
        raise


def _names_in(folder: Any) -> set[str]:
    """Return the names of files and folders directly in a folder of object storage. Raise OSError."""
    try:
        return {one.name for one in folder.children()}
    except FileNotFoundError:
        return set()
