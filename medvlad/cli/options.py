"""Options that several commands share, and what they are in the library."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from medvlad._util.validate import InputError, check_output_file

if TYPE_CHECKING:
    from medvlad.datasets.pseudonyms import Pseudonyms

__all__ = [
    "PATH",
    "anonymise_options",
    "check_store",
    "encodings_of",
    "layout_option",
    "learning_options",
    "network_options",
    "numbers",
    "on_error_of",
    "on_error_option",
    "pseudonyms_of",
    "scale_option",
    "settings_of",
]

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} takes whole numbers separated by commas, such as 0 or 0,1, got {text!r}"
        ) from None


def network_options(command: Command) -> Command:
    """Add the options that say how an image becomes descriptors."""
    options = [
        click.option("--model", default="vgg19", show_default=True, help="Any keras.applications network."),
        click.option("--layer", default="block5_pool", show_default=True, help="Where the network is cut."),
        click.option(
            "--weights",
            default="imagenet",
            show_default=True,
            help="imagenet (download), bundled (VGG16, extra 'offline'), or a file: .h5, .keras, .npz.",
        ),
        click.option("--mirror/--no-mirror", default=False, help="Descriptors of the mirror image as well."),
        click.option("--resize", default="bilinear", show_default=True, help="Pillow's resize filter."),
        click.option(
            "--batch-size", type=int, help="Images a batch [default: as many as fit a fixed memory]."
        ),
        click.option(
            "--dtype",
            default="float32",
            show_default=True,
            help="Of the network's arithmetic: float32, bfloat16 or int8 (extra 'openvino').",
        ),
        click.option(
            "--engine",
            default="auto",
            show_default=True,
            help="What runs the network: keras, native, openvino, or auto, the fastest here.",
        ),
        click.option("--threads", type=int, help="Threads of this machine [default: all processors]."),
        click.option("--store", help="Folder where descriptors are kept, and found again."),
    ]
    return _add(command, options)


def scale_option(command: Command) -> Command:
    """Add the option that says at which sizes an image is looked at."""
    option = click.option(
        "--scale",
        default="0",
        show_default=True,
        help="Scale s is an input of 224 + 320 s pixels; 0,1 pools the descriptors of both.",
    )
    return option(command)


def layout_option(command: Command) -> Command:
    """Add the options that say how a folder is read."""
    options = [
        click.option(
            "--layout",
            default="folder",
            show_default=True,
            help="folder (DIR/[train|test/]CLASS/*), mit-indoor, mini-mit, chest-xray or kvasir-v2.",
        ),
        click.option(
            "--patient",
            "group_pattern",
            metavar="REGEX",
            help="What in a file's path names the patient, in parentheses: '(case[0-9]+)_' [default: what is "
            "usual in well-known sets].",
        ),
    ]
    return _add(command, options)


def learning_options(command: Command) -> Command:
    """Add the options that say how descriptors become a decision."""
    options = [
        click.option(
            "--preset",
            type=click.Choice(["paper", "best"]),
            help="Settings taken together, each of which may be given besides: the paper's [default], or the "
            "best ones found; see docs/results.md.",
        ),
        click.option(
            "--C",
            "C",
            default="1",
            show_default=True,
            help="Penalty of the linear SVM; cv: chosen by cross-validation inside the training images.",
        ),
        click.option(
            "--class-weight", type=click.Choice(["none", "balanced"]), default="none", show_default=True
        ),
        click.option(
            "--assignment",
            type=click.Choice(["hard", "soft"]),
            default="hard",
            show_default=True,
            help="VLAD: in one cell, or in several by distance.",
        ),
        click.option(
            "--nearest", "n_nearest", type=int, help="VLAD, soft: in how many cells [default: all]."
        ),
        click.option(
            "--power",
            type=float,
            default=1.0,
            show_default=True,
            help="VLAD, fisher, second-order: signed power; 0.5 is usual.",
        ),
        click.option("--mass-norm/--no-mass-norm", default=False, help="VLAD: mean residuals, not sums."),
        click.option(
            "--local-axes/--no-local-axes", default=False, help="VLAD: principal axes of each cell (LCS)."
        ),
        click.option("--intra-norm/--no-intra-norm", default=False, help="VLAD: unit length for each cell."),
        click.option(
            "--residual-norm/--no-residual-norm", default=False, help="VLAD: unit length for each residual."
        ),
        click.option(
            "--tiles",
            default="",
            metavar="RxC,...",
            help="Encode by tiles of the image: 1x1,2x2 for the whole and its quarters [default: the whole].",
        ),
        click.option(
            "--vocabularies", type=int, default=1, show_default=True, help="VLAD: codebooks side by side."
        ),
        click.option(
            "--l2-descriptors/--no-l2-descriptors",
            "descriptor_norm",
            default=False,
            help="Unit length for descriptors.",
        ),
        click.option("--pca", "n_components", type=int, help="PCA of descriptors to so many numbers."),
        click.option("--reduce", type=int, help="PCA of an image's vector to so many numbers."),
        click.option("--whiten/--no-whiten", default=False, help="Unit variance for those."),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Seed of k-means and of every split."
        ),
        click.option("--backend", default="auto", show_default=True, help="See 'medvlad doctor'."),
    ]
    return _add(command, options)


def on_error_option(command: Command) -> Command:
    """Add the option that says what an unreadable image does."""
    return _add(
        command,
        [
            click.option(
                "--on-error",
                type=click.Choice(["stop", "skip"]),
                default="stop",
                show_default=True,
                help="What an unreadable image does: end the run, or be left out and listed.",
            )
        ],
    )


def anonymise_options(command: Command) -> Command:
    """Add the options that say whether files and patients are named."""
    options = [
        click.option(
            "--anonymise",
            is_flag=True,
            help="Name files and patients by digests whose key is not kept, and leave pictures of images out "
            "of reports.",
        ),
        click.option(
            "--anonymise-key",
            type=PATH,
            metavar="FILE",
            help="--anonymise, with the key in FILE and a table of what each digest stands for; made if it "
            "is not there.",
        ),
    ]
    return _add(command, options)


def pseudonyms_of(anonymise: bool, key_file: Path | None, *folders: Path | None) -> Pseudonyms | None:
    """Return the names to be used in what is written into `folders`, which must be empty then; or None."""
    from medvlad.datasets.pseudonyms import Pseudonyms

    if not anonymise and key_file is None:
        return None
    for folder in folders:
        if folder is None:
            continue
        if any(folder.iterdir()):
            raise InputError(
                f"{folder} holds files, which may name images: with --anonymise give a new or an empty folder"
            )
        if key_file is not None and key_file.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"--anonymise-key {key_file} lies in {folder}, and would be passed on with it")
    if key_file is None:
        return Pseudonyms()
    check_output_file(key_file, "key")
    return Pseudonyms.read(key_file) if key_file.exists() else Pseudonyms()


def _add(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """Turn command-line texts into the fields of an Experiment, "encode" taken out before.

    What a preset sets goes before an option's default, and after what the user gave.
    """
    from medvlad.encoders.recipe import PRESETS, Recipe

    context = click.get_current_context()
    preset = PRESETS[options.pop("preset") or "paper"]
    for field, setting in preset.items():
        name, value = ("scale", ",".join(map(str, setting))) if field == "scales" else (field, setting)
        if name in options and context.get_parameter_source(name) is ParameterSource.DEFAULT:
            options[name] = value
    options["C"] = _penalty(options["C"])
    options["tiles"] = _tiles(options["tiles"])
    if options.get("calibration") == "none":
        options["calibration"] = None
    options["recipe"] = Recipe(**{f.name: options.pop(f.name) for f in fields(Recipe)})
    options["scales"] = numbers(options.pop("scale"), "--scale")
    options["class_weight"] = None if options["class_weight"] == "none" else options["class_weight"]
    options["on_error"] = on_error_of(options["on_error"])
    options["n_threads"] = options.pop("threads")
    return options


def _penalty(text: str) -> float | None:
    if text == "cv":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--C takes a number above 0, or cv, got {text!r}") from None


def _tiles(text: str) -> tuple[tuple[int, int], ...]:
    found = [re.fullmatch(r"([1-9][0-9]?)x([1-9][0-9]?)", level) for level in text.split(",") if text]
    if None in found:
        raise InputError(f"--tiles takes levels such as 1x1,2x2, up to 99x99, got {text!r}")
    return tuple((int(level[1]), int(level[2])) for level in found if level)


def encodings_of(options: dict[str, Any]) -> list[str]:
    """Take the encodings out of the options: those given, or those of the preset."""
    from medvlad.encoders.recipe import PRESETS

    encode = options.pop("encode")
    if encode is None:
        encode = PRESETS[options["preset"] or "paper"]["encode"]
    return str(encode).split(",")


def check_store(store: str | None, directory: Path) -> None:
    """Refuse a store among the images."""
    if store is not None and Path(store).resolve().is_relative_to(directory.resolve()):
        raise InputError(
            f"--store {store} lies in {directory}, whose folders and images are read: name one elsewhere"
        )


def on_error_of(choice: str) -> str:
    """Return what the library calls that choice."""
    return "raise" if choice == "stop" else choice
