"""Pictures of a report that are made from images of the data set.

In: an :class:`~medvlad.experiment.Evaluation`. Out: evidence maps of the most confident errors.
:mod:`medvlad.report.clusters` draws the clusters of a codebook.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlad._util.object_path import location
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.recipe import encoder_steps
from medvlad.evaluation.cross_validation import HeldOut
from medvlad.experiment import Evaluation
from medvlad.explain import evidence_map, has_evidence

__all__ = ["ShownError", "confident_errors", "explainable", "grid_in_words", "in_memory"]

_N_ERRORS = 6


@dataclass(frozen=True, eq=False)
class ShownError:
    """A wrong decision and the evidence for it.

    Attributes
    ----------
    image : Path
    evidence : ndarray of float64, shape (H, W)
        Positive where the image speaks for the wrong class.
    caption : str
        Name of the image, true class, decided class, and by how much.
    """

    image: Path
    evidence: NDArray[np.float64]
    caption: str


def grid_in_words(grids: Sequence[tuple[int, int]]) -> str:
    """Return "7 x 7", the rows and columns of an evidence map, from the `grids_` of an extractor."""
    rows, columns = max(grids, key=lambda grid: grid[0] * grid[1])
    return f"{rows} x {columns}"


def explainable(one: HeldOut) -> bool:
    """Return whether decisions can be split over places of an image."""
    return has_evidence(dict(encoder_steps(one.fitted[0].encoder))["encode"])


def confident_errors(
    evaluation: Evaluation, one: HeldOut, *, names: Pseudonyms | None = None
) -> Iterator[ShownError]:
    """Yield the six most confident errors, the most confident first.

    Parameters
    ----------
    evaluation : Evaluation
    one : HeldOut
        One of ``evaluation.decided``. Nothing is yielded if its decisions cannot be split over places.
    names : Pseudonyms or None, default=None
        Names shown for the images. None: their file names.

    Yields
    ------
    ShownError
    """
    extractor = evaluation.extractor
    if extractor is None or not explainable(one):
        return
    dataset = evaluation.dataset
    classes, labels = dataset.class_names, dataset.labels[one.tested]
    rows = np.arange(len(labels))
    decided = one.decision.argmax(axis=1)
    lead = one.decision[rows, decided]
    if len(classes) > 2:  # of two classes the values differ only in their sign
        lead = lead - one.decision[rows, labels]
    wrong = rows[decided != labels]
    for row in wrong[np.argsort(-lead[wrong], kind="stable")][:_N_ERRORS]:
        image = int(one.tested[row])
        fold = next(fold for fold in one.fitted if image in fold.test)
        steps = [*(step for _, step in encoder_steps(fold.encoder)), fold.head]
        path = location(dataset.paths[image], "the image")
        yield ShownError(
            path,
            evidence_map(extractor, steps, in_memory(evaluation, [image]), int(decided[row])),
            f"{path.name if names is None else names.image(path)}: {classes[int(labels[row])]}, decided "
            f"{classes[int(decided[row])]} by {lead[row]:.2f}",
        )


def in_memory(evaluation: Evaluation, images: list[int]) -> Descriptors:
    """Return the descriptors of some images of an evaluation."""
    taken = evaluation.descriptors.take(np.asarray(images))
    return taken if isinstance(taken, Descriptors) else taken.load()
