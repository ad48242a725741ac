"""List the images of a data set, whether it is a folder, a published layout or a table."""

from __future__ import annotations

import os

from medvlad._util.validate import InputError, check_choice
from medvlad.datasets.folders import ImageFolder, load_image_folder
from medvlad.datasets.manifest import is_table, load_table
from medvlad.datasets.manifest_columns import TableSettings
from medvlad.datasets.published import LAYOUTS

__all__ = ["load_data"]


def load_data(
    root: str | os.PathLike[str],
    *,
    layout: str = "folder",
    table: TableSettings | None = None,
    group_pattern: str | None = None,
    unknown_patients: str = "own",
    random_state: int = 0,
) -> ImageFolder:
    """List the images of a folder or a table.

    Parameters
    ----------
    root : path
        Folder of images, or a table.
    layout : str, default="folder"
        Layout of the folder, a key of `medvlad.datasets.published.LAYOUTS`.
    table : TableSettings or None, default=None
        Columns of the table. None: found by usual names.
    group_pattern, unknown_patients
        See :func:`medvlad.load_image_folder`.
    random_state : int, default=0
        Seed of layouts that draw images.

    Raises
    ------
    InputError
        If the images cannot be listed, or a setting does not fit.
    """
    check_choice(layout, "layout", tuple(LAYOUTS))
    columns = TableSettings() if table is None else table
    if is_table(root):
        if layout != "folder":
            raise InputError(f"layout={layout!r} is for folders, and {str(root)!r} is a table: leave it out")
        return load_table(root, columns, group_pattern=group_pattern, unknown_patients=unknown_patients)
    if columns != TableSettings():
        raise InputError(f"{str(root)!r} is no table: leave image_root, the columns and the task out")
    if group_pattern is None:
        return LAYOUTS[layout](root, random_state=random_state, unknown_patients=unknown_patients)
    if layout != "folder":
        raise InputError(
            f"the layout {layout} already defines the patients: leave the pattern for patients out"
        )
    return load_image_folder(root, group_pattern=group_pattern, unknown_patients=unknown_patients)
