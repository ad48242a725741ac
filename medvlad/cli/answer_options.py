"""Options about answers that one may act on, and what the commands do with them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import message_line

if TYPE_CHECKING:
    from medvlad.decisions import Answering

__all__ = [
    "OPERATING_POINT",
    "POSITIVE",
    "answer_group",
    "calibration_option",
    "check_wanted",
    "decide_again",
    "tell_shift",
]

logger = logging.getLogger(__name__)

OPERATING_POINT = cloup.option(
    "--threshold",
    metavar="sensitivity=P",
    help="Two classes: threshold with this sensitivity, or specificity=P, in folds of the training images.  "
    "[default: that of the SVM]",
)
POSITIVE = cloup.option(
    "--positive",
    metavar="CLASS",
    help="Positive class, if there are two classes.  [default: the last in alphabetical order]",
)


def calibration_option(default: str) -> options.Decorator:
    """Return --calibration with a default value."""
    return cloup.option(
        "--calibration",
        type=options.Choice(["none", "auto", "platt", "isotonic"]),
        default=default,
        help="Method for probabilities. auto: platt, or isotonic from 1,000 images on.",
    )


def answer_group() -> options.Decorator:
    """Add the options of 'predict' on sets, abstention and threshold."""
    return cloup.option_group(
        "Answers",
        cloup.option(
            "--coverage",
            type=float,
            metavar="P",
            help="Also give a set of classes that contains the true class with this probability, such as "
            "0.9.",
        ),
        options.switch(
            "--abstain/--no-abstain",
            help="Give a label only if the set contains this label alone. Without --coverage, 0.9 is used.  "
            "[default: no]",
        ),
        options.switch(
            "--adapt-threshold/--no-adapt-threshold",
            help="Two classes: find the threshold in the scores of the images.  [default: no]",
        ),
    )


def check_wanted(coverage: float | None, adapt_threshold: bool, explain: object) -> None:
    """Check --coverage, and refuse --adapt-threshold with --explain before anything is read.

    Maps of evidence are drawn before the threshold is known.
    """
    from medvlad.decisions.conformal import check_coverage

    if coverage is not None:
        check_coverage(coverage)
    if adapt_threshold and explain is not None:
        raise click.UsageError("--adapt-threshold and --explain cannot be used together: leave one out")


def decide_again(predictions: list[dict[str, Any]], classes: list[str]) -> None:
    """Find a threshold in the scores of the predictions, decide them again, and tell it.

    Without a threshold the labels stay, with a warning.
    """
    from medvlad.decisions.answers import with_threshold
    from medvlad.evaluation.threshold import ASSUMPTION, find_threshold

    found = find_threshold([one["scores"][classes[1]] for one in predictions])
    if found.value is None:
        logger.warning(
            "no threshold was found in these images (%s), so the labels do not change", found.reason
        )
        return
    with_threshold(predictions, classes, found.value)
    assumed = ASSUMPTION.replace("test images", "images")
    sentence = (
        f"the threshold of {classes[1]} is {found.value:.2f}, found in the scores of these images; it is "
        f"right only if {assumed}"
    )
    click.echo(message_line(sentence, "info"), err=True)


def tell_shift(answering: Answering, adapted: bool) -> None:
    """Warn once if the scores of all images have shifted, unless their own threshold is used."""
    shift = None if adapted else answering.shift()
    if shift is not None:
        logger.warning("%s", shift)
