"""The small files of a store: the marker of its format, and the settings of each section.

The files are listed in :mod:`medvlad.store.store`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlad._util.object_path import ObjectPath
from medvlad._util.object_storage import is_read_only
from medvlad._util.validate import InputError, one_line
from medvlad.store.folder import folder_at

__all__ = ["FORMAT", "changed_settings", "check_marker", "section_name", "settings_files", "write_once"]

#: Content of the marker.
FORMAT = {"format": "medvlad descriptor store", "version": 2}


def check_marker(store: Path) -> None:
    """Raise InputError if a path is a file, a folder that is not a store, or a store of another version."""
    if isinstance(store, ObjectPath):
        _check_object_store(store)
        return
    marker = store / "format.json"
    if store.exists() and not store.is_dir():
        raise InputError(f"{store} is not a folder: give the folder of a descriptor store, or a new one")
    # Another process that makes the store writes the marker first, under a temporary name.
    if store.is_dir():
        others = [file for file in store.iterdir() if file.suffix != ".part"]
        if others and not marker.exists():
            raise InputError(f"{store} is a folder of something else: give an empty folder or a new one")
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{marker} cannot be read ({error}): is this a descriptor store?") from error
        _check_format(store, found)


def section_name(settings: Mapping[str, Any]) -> str:
    """Return the name of a section's folder: the first 16 digits of the SHA-256 of its settings."""
    text = json.dumps(dict(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_settings(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return a sentence if the settings of a section are not those of the name of its folder."""
    if folder.name == section_name(settings):
        return []
    return [
        f"{folder / 'settings.json'} does not match the name of its folder: the settings were changed, or "
        "the folder was renamed. Remove the file; a run with the right settings writes it again"
    ]


def write_once(folder: Path, name: str, text: str) -> None:
    """Write a small file atomically, unless it exists."""
    try:
        folder_at(folder).write_once(name, text)
    except OSError as error:
        raise InputError(
            f"the store {folder} cannot be written: {error.strerror or error}; what is in it stays"
        ) from error


def _check_format(store: Path, found: object) -> None:
    """Raise InputError unless the marker of a store is that of this version."""
    if found != FORMAT:
        raise InputError(
            f"{store} is a store of another version ({found}, expected {FORMAT}): give another "
            "folder, or install the medvlad that made it"
        )


def _check_object_store(store: ObjectPath) -> None:
    """Raise InputError if a folder of object storage is neither a store nor empty."""
    marker = store / "format.json"
    if is_read_only(store.url):
        raise InputError(
            f"the store {store} cannot lie behind https, where nothing can be listed or written: give a "
            "folder, or s3://, gs:// or az://"
        )
    try:
        _check_format(store, json.loads(marker.read_bytes()))
    except FileNotFoundError:
        try:
            names = [one.name for one in store.children()]
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise InputError(
                f"the store {store} cannot be listed ({error.strerror}): check its address and the network"
            ) from None
        if names and marker.name not in names:
            raise InputError(
                f"{store} is a folder of something else: give an empty folder or a new one"
            ) from None
    except InputError:  # of another version
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{marker} cannot be read ({one_line(error)}): is this a descriptor store?"
        ) from None


def settings_files(store: Path) -> list[Path]:
    """Return the files of settings of all sections, sorted."""
    if not isinstance(store, ObjectPath):
        return sorted(store.glob("*/settings.json"))
    try:
        sections = [store / one.name for one in store.children() if one.is_folder]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            f"the store {store} cannot be listed ({error.strerror}): check its address and the network"
        ) from None
    return [file for section in sections if (file := section / "settings.json").is_file()]
