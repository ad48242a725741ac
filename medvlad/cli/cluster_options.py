"""Options of work that is larger than one machine or its memory."""

from __future__ import annotations

import click
import cloup

__all__ = ["CODEBOOK_SAMPLES", "SCHEDULER"]


def _read_samples(context: click.Context, option: click.Parameter, text: str) -> int | None:
    """Read a number, or all."""
    if text == "all":
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise click.UsageError(
            f"--codebook-samples must be a whole number of at least 1 or the word all, got {text!r}: use for "
            "example --codebook-samples 500000"
        )
    return number


CODEBOOK_SAMPLES = cloup.option(
    "--codebook-samples",
    metavar="N|all",
    default="500000",
    callback=_read_samples,
    show_default=False,
    help="VLAD, bow: maximum number of descriptors for k-means; more are subsampled. all: each k-means step "
    "reads every descriptor, from --store if given.  [default: 500000]",
)

SCHEDULER = cloup.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Address of a Dask scheduler whose workers extract, encode and find codebooks; needs --store (extra "
    "'distributed'). With --memory they fit the SVM, and its file is in --store, not in TMPDIR.",
)
