"""From options of the command line to settings of the library."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from medvlad.datasets.pseudonyms import Pseudonyms

__all__ = [
    "check_replaced",
    "check_store",
    "encodings_of",
    "given_options",
    "on_error_of",
    "pseudonyms_of",
    "settings_of",
]


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """Turn options into the fields of an Experiment; "encode" must have been taken out.

    A value of the preset replaces an option's default, but not a value that the user gave. If the user named
    another network, the layer and the weights of the preset do not count, because they belong to its own.
    """
    from medvlad.encoders.recipe import PRESETS, Recipe

    context = click.get_current_context()
    preset = PRESETS[options.pop("preset") or "paper"]
    is_default = {name: context.get_parameter_source(name) is ParameterSource.DEFAULT for name in options}
    has_its_network = is_default["model"] or options["model"] == preset.get("model")
    for field, value in preset.items():
        name = "scale" if field == "scales" else field
        if name in options and is_default[name] and (has_its_network or name not in ("layer", "weights")):
            options[name] = value
    options["C"] = None if options["C"] == "cv" else options["C"]
    if options.get("calibration") == "none":
        options["calibration"] = None
    options["recipe"] = Recipe(**{f.name: options.pop(f.name) for f in fields(Recipe)})
    options["scales"] = options.pop("scale")
    options["class_weight"] = None if options["class_weight"] == "none" else options["class_weight"]
    for name in ("on_error", "on_damage"):
        options[name] = on_error_of(options[name])
    options["n_threads"] = options.pop("threads")
    return options


def given_options(*names: str) -> list[str]:
    """Return those of these options that stand on the command line, as they are written there."""
    context = click.get_current_context(silent=True)
    if context is None:
        return []
    options = {one.name: one for one in context.command.params if isinstance(one, click.Option)}
    return [
        options[name].opts[-1]
        for name in names
        if name in options and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]


def encodings_of(options: dict[str, Any]) -> list[str]:
    """Take the encodings out of the options: those given, or those of the preset."""
    from medvlad.encoders.recipe import PRESETS

    encode = options.pop("encode")
    if encode is None:
        encode = PRESETS[options["preset"] or "paper"]["encode"]
    return [name.strip() for name in str(encode).split(",")]


def on_error_of(choice: str) -> Any:
    """Return the library's word for a choice of --on-error or --on-damage."""
    return "raise" if choice == "stop" else choice


def check_store(store: str | None, directory: Path) -> None:
    """Refuse a store inside the folder of images."""
    from medvlad._util.object_path import outside

    if store is not None:
        outside(store, "--store", directory)


def check_replaced(path: Path, name: str, *, overwrite: bool) -> bool:
    """Refuse a file of results that exists, unless it may be replaced. An empty file may be.

    Parameters
    ----------
    path : Path
        File to be written.
    name : str
        What the command calls it, such as "--output".
    overwrite : bool
        Whether it may be replaced.

    Returns
    -------
    bool
        Whether there is such a file.
    """
    exists = path.exists() and path.stat().st_size > 0
    if exists and not overwrite:
        raise click.UsageError(f"{name} {path} exists: name another file, or give --overwrite to replace it")
    return exists


def pseudonyms_of(anonymise: bool, key_file: Path | None, *folders: Path | None) -> Pseudonyms | None:
    """Return the pseudonyms for everything that is written into `folders`; None if none are wanted.

    The folders must be empty, because older files may name images.
    """
    from medvlad._util.validate import check_output_file
    from medvlad.datasets.pseudonyms import Pseudonyms

    if not anonymise and key_file is None:
        return None
    for folder in folders:
        if folder is None:
            continue
        if any(folder.iterdir()):
            raise click.UsageError(
                f"{folder} holds files, which may name images: with --anonymise give a new or an empty folder"
            )
        if key_file is not None and key_file.resolve().is_relative_to(folder.resolve()):
            raise click.UsageError(
                f"--anonymise-key {key_file} lies in {folder}, and would be passed on with it: "
                "name a file elsewhere"
            )
    if key_file is None:
        return Pseudonyms()
    check_output_file(key_file, "key")
    return Pseudonyms.read(key_file) if key_file.exists() else Pseudonyms()
