"""Pictures of a report that are made from images of the data set.

In: an :class:`~medvlad.experiment.Evaluation`. Out: evidence maps of the most confident errors, and the image
patches that the clusters of a codebook stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.pipeline import FeatureUnion

from medvlad._util.object_path import location
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.recipe import encoder_steps
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.evaluation.cross_validation import FittedFold, HeldOut
from medvlad.experiment import Evaluation
from medvlad.explain import evidence_map, has_evidence
from medvlad.images.read import load_image

__all__ = ["N_CLUSTERS", "ShownError", "cluster_patches", "confident_errors", "explainable", "grid_in_words"]

N_CLUSTERS = 16
"""Maximum number of clusters shown."""

_N_ERRORS = 6
_PATCHES = 8  # of each cluster
_LOOKED_AT = 300  # maximum number of images that are searched for patches
_PATCH = 64  # pixels
_GAP = 4  # pixels
_MARGIN = 90  # pixels for the text at the left
_FONT_SIZE = 15  # pixels
_AROUND = 1  # cells of the grid shown on each side of a descriptor's own


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
            evidence_map(extractor, steps, _in_memory(evaluation, [image]), int(decided[row])),
            f"{path.name if names is None else names.image(path)}: {classes[int(labels[row])]}, decided "
            f"{classes[int(decided[row])]} by {lead[row]:.2f}",
        )


def cluster_patches(evaluation: Evaluation, fold: FittedFold) -> tuple[Image.Image, str] | None:
    """Draw the patches nearest to the centres of the largest clusters of a codebook.

    Parameters
    ----------
    evaluation : Evaluation
    fold : FittedFold

    Returns
    -------
    (PIL.Image.Image, str) or None
        One row of patches for each cluster, and a caption. None: there is no codebook, or descriptors have no
        place in the image.
    """
    steps = encoder_steps(fold.encoder)
    vlad = next((part for part in _encoders(fold) if isinstance(part, VLAD)), None)
    extractor = evaluation.extractor
    if extractor is None or vlad is None or set(extractor.grids_) == {(1, 1)}:
        return None
    # Of a model from a file, the training images are not there.
    pool, kind = (fold.train, "training images") if len(fold.train) else (fold.test, "images")
    chosen = np.linspace(0, len(pool) - 1, min(len(pool), _LOOKED_AT)).astype(np.intp)
    images = pool[np.unique(chosen)]
    descriptors = _in_memory(evaluation, images.tolist())
    for _, step in steps:
        if isinstance(step, DescriptorProjection):
            descriptors = step.transform(descriptors)
    labels = vlad.codebook_.predict(descriptors)
    distances = vlad.codebook_.transform(descriptors)[np.arange(len(labels)), labels]
    owner = np.repeat(np.arange(len(images)), np.diff(descriptors.offsets))
    counts = np.bincount(labels, minlength=len(vlad.cluster_centers_))
    clusters = np.argsort(-counts, kind="stable")[: min(N_CLUSTERS, int((counts > 0).sum()))]
    pitch = _PATCH + _GAP
    drawn = Image.new("RGB", (_MARGIN + _PATCHES * pitch, len(clusters) * pitch), "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=_FONT_SIZE)
    for line, cluster in enumerate(clusters.tolist()):
        share = counts[cluster] / len(labels)
        text = f"no. {cluster}\n{share:.1%}"
        pen.multiline_text((4, line * pitch + _PATCH // 2), text, fill="black", font=font, anchor="lm")
        rows = np.flatnonzero(labels == cluster)
        rows = rows[np.argsort(distances[rows], kind="stable")]
        _, firsts = np.unique(owner[rows], return_index=True)  # one patch an image
        for column, row in enumerate(rows[np.sort(firsts)][:_PATCHES].tolist()):
            image = int(owner[row])
            place = row - int(descriptors.offsets[image])
            path = evaluation.dataset.paths[int(images[image])]
            pixels = load_image(path, on_damage="ignore")
            drawn.paste(_patch(pixels, place, extractor), (_MARGIN + column * pitch, line * pitch))
    caption = f"Number of each cluster and its share of the descriptors of {len(images)} {kind}"
    return drawn, caption


def _patch(pixels: NDArray[np.uint8], place: int, extractor: Any) -> Image.Image:
    """Cut out the part of an image that a descriptor comes from, with one cell around it."""
    grid = 0
    while place >= extractor.grids_[grid][0] * extractor.grids_[grid][1]:
        place -= extractor.grids_[grid][0] * extractor.grids_[grid][1]
        grid += 1
    h, w = extractor.grids_[grid]
    row, column = divmod(place, w)
    if extractor.mirrored_[grid]:
        column = w - 1 - column
    height, width = pixels.shape[:2]
    left, right = (column - _AROUND) * width / w, (column + 1 + _AROUND) * width / w
    top, bottom = (row - _AROUND) * height / h, (row + 1 + _AROUND) * height / h
    box = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return Image.fromarray(pixels).resize((_PATCH, _PATCH), Image.Resampling.BICUBIC, box=box)


def _encoders(fold: FittedFold) -> list[Any]:
    """Return the encoders of a union, or the only one; of spatial tiles the encoder of a tile."""
    encode = dict(encoder_steps(fold.encoder))["encode"]
    parts = [part for _, part in encode.transformer_list] if isinstance(encode, FeatureUnion) else [encode]
    return [part.encoder_ if isinstance(part, SpatialTiles) else part for part in parts]


def _in_memory(evaluation: Evaluation, images: list[int]) -> Descriptors:
    taken = evaluation.descriptors.take(np.asarray(images))
    return taken if isinstance(taken, Descriptors) else taken.load()
