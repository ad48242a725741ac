"""Options that several commands share.

This module imports no room of the library, because ``medvlad --help`` must be fast. Lists of choices are
therefore repeated here. A test compares them with the library's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import click
import cloup

from medvlad.cli.cluster_options import CODEBOOK_SAMPLES
from medvlad.cli.network_options import LAYER, MODEL, OTHER_NETWORKS
from medvlad.cli.paths import INPUTS, PATH, PATH_OR_URL, TEXT_PATH_OR_URL

__all__ = [
    "ANONYMISE",
    "ANONYMISE_KEY",
    "ANONYMISE_NAMES",
    "ANONYMISE_PREDICTIONS",
    "CLASS_WEIGHT",
    "DTYPE",
    "ENGINE",
    "FOLDS",
    "INPUTS",
    "JSON",
    "LAYER",
    "LAYOUT",
    "MODEL",
    "ON_DAMAGE",
    "ON_ERROR",
    "OVERWRITE",
    "OVERWRITE_FILE",
    "PATH",
    "PATH_OR_URL",
    "PATIENT",
    "PENALTY",
    "PICTURES",
    "PRESET",
    "REQUIRED_STORE",
    "SCALE",
    "SEED",
    "STORE",
    "TEXT_PATH_OR_URL",
    "THREADS",
    "UNKNOWN_PATIENTS",
    "WEIGHTS",
    "WEIGHTS_OF_MODEL",
    "Choice",
    "advanced_group",
    "encoding_group",
    "network_group",
    "read_scales",
    "switch",
]

Decorator = Callable[[Any], Any]


class Choice(click.Choice):  # type: ignore[type-arg]
    """One of several words. The error message suggests the word that was probably meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """List the words, and name the one that is close to `value`."""
        close = get_close_matches(str(value), self.choices, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        return f"must be one of {', '.join(self.choices)}, got {value!r}{hint}"


def switch(names: str, *, help: str, name: str | None = None) -> Decorator:
    """Return an option that is on or off, and off by default: ``--mirror/--no-mirror``."""
    declarations = [names] if name is None else [names, name]
    return cloup.option(*declarations, default=False, show_default=False, help=help)


def read_scales(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(
            f"{option.opts[0]} must be whole numbers separated by commas, got {text!r}: use for example 0,1"
        ) from None


def _read_penalty(context: click.Context, option: click.Parameter, text: str) -> float | str:
    """Read a number, or cv."""
    try:
        return "cv" if text == "cv" else float(text)
    except ValueError:
        raise click.UsageError(
            f"--C must be a number above 0 or the word cv, got {text!r}: use for example --C 1"
        ) from None


def _read_tiles(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[tuple[int, int], ...]:
    """Read grids such as 1x1,2x2."""
    if not text:
        return ()
    levels = [re.fullmatch(r"([1-9][0-9]?)x([1-9][0-9]?)", level) for level in text.split(",")]
    if None in levels:
        raise click.UsageError(
            f"--tiles must be grids of at most 99x99, got {text!r}: use for example --tiles 1x1,2x2"
        )
    return tuple((int(level[1]), int(level[2])) for level in levels if level)


# ------------------------------------------------------------------------------------------- data

LAYOUT = cloup.option(
    "--layout",
    type=Choice(["folder", "mit-indoor", "mini-mit", "chest-xray", "kvasir-v2"]),
    metavar="NAME",
    default="folder",
    help="Layout of DIR: folder, mit-indoor, mini-mit, chest-xray or kvasir-v2.",
)
PATIENT = cloup.option(
    "--patient",
    "group_pattern",
    metavar="REGEX",
    help="Regular expression for file paths; its group is the patient, such as '(person[0-9]+)_'. "
    "Images of a patient stay in one fold.  [default: patterns of known data sets]",
)
UNKNOWN_PATIENTS = cloup.option(
    "--unknown-patients",
    type=Choice(["own", "refuse", "drop"]),
    default="own",
    help="Images without a known patient: own counts each as a patient of its own, refuse stops, drop leaves "
    "them out.",
)
ON_ERROR = cloup.option(
    "--on-error",
    type=Choice(["stop", "skip"]),
    default="stop",
    help="Stop at an unreadable image, or skip and list it.",
)
ON_DAMAGE = cloup.option(
    "--on-damage",
    type=Choice(["warn", "stop", "skip"]),
    default="warn",
    help="Use an image whose JPEG data is damaged and list it, stop at it, or skip and list it.",
)

# ---------------------------------------------------------------------------------------- network

WEIGHTS = cloup.option(
    "--weights",
    type=TEXT_PATH_OR_URL,
    metavar="NAME|FILE",
    default="imagenet",
    help="Weights: imagenet, bundled (extra 'offline'), FILE or URL[#sha256=HEX].",
)
WEIGHTS_OF_MODEL = cloup.option(
    "--weights",
    type=TEXT_PATH_OR_URL,
    metavar="NAME|FILE",
    help="File of the weights, if it has moved since training.  [default: as in training]",
)


SCALE = cloup.option(
    "--scale",
    metavar="S,...",
    default="0",
    callback=read_scales,
    help="Scales of the input, 0 to 10. At scale s the side is 224 + 320*s pixels. 0,1 uses the "
    "descriptors of both.",
)


def _store_option(**settings: Any) -> Decorator:
    ending = "" if settings else "  [default: none]"
    return cloup.option(
        "--store",
        type=TEXT_PATH_OR_URL,
        metavar="FOLDER|URL",
        help="Folder that keeps descriptors, so that the next run skips the network." + ending,
        **settings,
    )


STORE = _store_option()
REQUIRED_STORE = _store_option(required=True)
DTYPE = cloup.option(
    "--dtype",
    type=Choice(["auto", "float32", "bfloat16", "int8"]),
    metavar="TYPE",
    default="float32",
    help="Number type in the network: float32, bfloat16, int8, or auto for the fastest one here that "
    "is as accurate. int8 needs the extra 'openvino', and bfloat16 is float32 without it.",
)
ENGINE = cloup.option(
    "--engine",
    type=Choice(["auto", "keras", "native", "openvino", "onnxruntime", "torch"]),
    metavar="NAME",
    default="auto",
    help="Software that runs the network: auto takes the fastest of keras, native and openvino here; "
    "onnxruntime runs onnx: networks, torch runs timm: networks.",
)


def network_group(*first: Decorator) -> Decorator:
    """Add the options of the network that few people need, after the options `first`."""
    return cloup.option_group(
        "Network",
        *first,
        switch(
            "--mirror/--no-mirror",
            help="Also use the descriptors of the mirrored image.  [default: no]",
        ),
        cloup.option(
            "--resize",
            type=Choice(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
            metavar="FILTER",
            default="bilinear",
            help="Resize filter: nearest, bilinear, bicubic, lanczos, box or hamming.",
        ),
        cloup.option(
            "--colour-profile",
            type=Choice(["ignore", "srgb"]),
            default="ignore",
            help="ICC profiles in image files: ignore them, or convert colours to sRGB.",
        ),
        cloup.option(
            "--decode",
            type=Choice(["full", "fast"]),
            default="full",
            help="JPEG files: decode all pixels, or large files at reduced size, which is faster.",
        ),
        cloup.option(
            "--batch-size",
            type=int,
            metavar="N",
            help="Number of images in a batch.  [default: 8 at scale 0, otherwise 1]",
        ),
        DTYPE,
        ENGINE,
        *OTHER_NETWORKS,
    )


# --------------------------------------------------------------------------- encoding and classifier

PRESET = cloup.option(
    "--preset",
    type=Choice(["paper", "best", "fast"]),
    help="Defaults, which your options override. paper: as in the paper. best, fast: network, encoding "
    "and scales chosen on other data, --C cv, balanced classes, probabilities.  [default: paper]",
)
PENALTY = cloup.option(
    "--C",
    "C",
    metavar="NUMBER|cv",
    default="1",
    callback=_read_penalty,
    help="Penalty of the linear SVM. cv: chosen by cross-validation inside the training images.",
)
CLASS_WEIGHT = cloup.option(
    "--class-weight",
    type=Choice(["none", "balanced"]),
    default="none",
    help="Weight of a class. balanced: rare classes count more.",
)


def encoding_group() -> Decorator:
    """Add the options of the encoding that few people need."""
    return cloup.option_group(
        "Encoding",
        switch(
            "--l2-descriptors/--no-l2-descriptors",
            name="descriptor_norm",
            help="Scale each descriptor to unit length.  [default: no]",
        ),
        cloup.option(
            "--pca",
            "n_components",
            type=int,
            metavar="N",
            help="Number of principal components kept of each descriptor.  [default: no PCA]",
        ),
        cloup.option(
            "--assignment",
            type=Choice(["hard", "soft"]),
            default="hard",
            help="VLAD: hard assigns a descriptor to its nearest centre. soft assigns it to all centres, or "
            "to the nearest ones with --nearest; closer centres get more weight.",
        ),
        cloup.option(
            "--nearest",
            "n_nearest",
            type=int,
            metavar="N",
            help="VLAD with --assignment soft: number of nearest centres for each descriptor.  "
            "[default: all]",
        ),
        cloup.option(
            "--power",
            type=float,
            metavar="P",
            default=1.0,
            help="VLAD, fisher, second-order: replace each number v of the vector by sign(v) |v|^P. 1 "
            "changes nothing; 0.5 reduces large numbers.",
        ),
        switch(
            "--mass-norm/--no-mass-norm",
            help="VLAD: average residuals instead of summing them.  [default: no]",
        ),
        switch(
            "--local-axes/--no-local-axes",
            help="VLAD: rotate the residuals of each cell to their principal axes.  [default: no]",
        ),
        switch(
            "--intra-norm/--no-intra-norm",
            help="VLAD: scale each cell's sum of residuals to unit length.  [default: no]",
        ),
        switch(
            "--residual-norm/--no-residual-norm",
            help="VLAD: scale each residual to unit length before the sum.  [default: no]",
        ),
        cloup.option(
            "--vocabularies",
            type=int,
            metavar="N",
            default=1,
            help="VLAD: number of vocabularies, which are sets of centres. Their vectors are concatenated.",
        ),
        CODEBOOK_SAMPLES,
        cloup.option(
            "--tiles",
            metavar="RxC,...",
            callback=_read_tiles,
            help="Grids of tiles, rows x columns. Each tile is encoded separately. 1x1,2x2 is the whole "
            "image and its quarters.  [default: the whole image]",
        ),
        cloup.option(
            "--reduce",
            type=int,
            metavar="N",
            help="Number of principal components kept of an image's vector.  [default: no PCA]",
        ),
        switch(
            "--whiten/--no-whiten",
            help="Scale the components of --reduce to unit variance.  [default: no]",
        ),
    )


# ------------------------------------------------------------------------------ evaluation and output

FOLDS = cloup.option(
    "--folds",
    type=int,
    metavar="N",
    default=5,
    help="Number of folds: of the evaluation if DIR has no test part, and inside the training "
    "images, for C, probabilities and --threshold.",
)
JSON = cloup.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
OVERWRITE = cloup.option(
    "--overwrite", is_flag=True, help="Replace the results of an earlier run in the same folder."
)
OVERWRITE_FILE = cloup.option("--overwrite", is_flag=True, help="Replace an existing file of this kind.")
PICTURES = cloup.option(
    "--pictures/--no-pictures",
    default=None,
    help="Show images in the HTML report.  [default: yes; with --anonymise: no]",
)


def _anonymise_option(ending: str) -> Decorator:
    return cloup.option(
        "--anonymise", is_flag=True, help="Replace names of files and patients by pseudonyms." + ending
    )


ANONYMISE = _anonymise_option(" Reports show images only with --pictures.")
ANONYMISE_NAMES = _anonymise_option("")
ANONYMISE_PREDICTIONS = _anonymise_option(" Pictures of --explain still show the images.")
ANONYMISE_KEY = cloup.option(
    "--anonymise-key",
    type=PATH,
    metavar="FILE",
    help="Like --anonymise, but save the key and the real names in FILE, so that later runs use the same "
    "pseudonyms. FILE is created if missing.",
)

# ---------------------------------------------------------------------------------------- advanced

SEED = cloup.option(
    "--seed", type=int, metavar="N", default=0, help="Seed of k-means and of every random split."
)
THREADS = cloup.option(
    "--threads",
    type=int,
    metavar="N",
    help="Number of threads.  [default: all processors that affinity and CPU quota allow]",
)

MEMORY = cloup.option(
    "--memory",
    metavar="SIZE",
    help="Limit on the memory of the SVM, such as 2GiB. Larger vectors go to a file in TMPDIR, and --reduce "
    "makes several passes. For one class an image, and not for encoders joined by +.  [default: no limit]",
)


def advanced_group(*last: Decorator) -> Decorator:
    """Add seed, threads and backend, and the options `last`."""
    return cloup.option_group(
        "Advanced",
        SEED,
        THREADS,
        cloup.option(
            "--backend",
            type=Choice(["auto", "reference", "native", "cuda"]),
            metavar="NAME",
            default="auto",
            help="Backend of k-means and VLAD: auto, reference, native or cuda; see 'medvlad doctor'.",
        ),
        *last,
    )
