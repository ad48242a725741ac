"""The clusters of a codebook: what they look like, and how much each one adds to the decisions.

The decision value of an image is a sum over its descriptors (see :mod:`medvlad.explain.split`), so it is also
a sum over clusters. The gap of a cluster is the mean of its part in images of a class, minus the mean in all
other images. The gaps of all clusters add up to the gap of the decision value. With a signed power, both sums
are first-order approximations. With soft assignment a descriptor is in several clusters, and gaps are not
computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.pipeline import FeatureUnion

from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.recipe import encoder_steps
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.encoders.vlad_functions import assign
from medvlad.evaluation.cross_validation import FittedFold
from medvlad.experiment import Evaluation
from medvlad.explain import first_order_evidence
from medvlad.images.read import load_image
from medvlad.report.pictures import in_memory
from medvlad.report.plots import short_names

__all__ = ["N_CLUSTERS", "Cluster", "ClusterPictures", "draw_clusters"]

N_CLUSTERS = 16
"""Maximum number of clusters shown."""

_PATCHES = 9  # of each cluster
_LOOKED_AT = 300  # maximum number of images that are searched for patches
_PATCH = 64  # pixels
_GAP = 4  # pixels between patches
_BETWEEN = 20  # pixels between groups of patches
_MARGIN = 150  # pixels for the text at the left
_TOP = 26  # pixels for the text above groups
_FONT_SIZE = 15  # pixels
_NAME_LENGTH = 14  # characters of a class name in the picture
_AROUND = 1  # cells of the grid shown on each side of a descriptor's own


@dataclass(frozen=True, eq=False)
class Cluster:
    """How a cluster is used.

    Attributes
    ----------
    number : int
        Row of its centre in the codebook.
    gap : float or None
        Its part of the gap of decision values, 1 for all clusters together. None: not known, because the
        encoding is more than one VLAD, a descriptor has several cells, or the decision values have no gap.
    speaks_for : int
        The class whose gap is largest. With two classes it is class 1.
    share : ndarray of float64, shape (n_classes,)
        Share of the descriptors of each class's images that are in the cluster.
    """

    number: int
    gap: float | None
    speaks_for: int
    share: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClusterPictures:
    """Clusters, the most important first, and their patches.

    Attributes
    ----------
    clusters : list of Cluster
        At most `N_CLUSTERS`. Sorted by `gap`, or by number of descriptors if the gaps are not known.
    picture : PIL.Image.Image
        A row for each of them.
    caption : str
    """

    clusters: list[Cluster]
    picture: Image.Image
    caption: str


def draw_clusters(evaluation: Evaluation, fold: FittedFold) -> ClusterPictures | None:
    """Find the clusters that decide most, and draw patches of held-out images from each of them.

    Parameters
    ----------
    evaluation : Evaluation
    fold : FittedFold

    Returns
    -------
    ClusterPictures or None
        None: there is no codebook, or descriptors have no place in the image.
    """
    steps = [step for _, step in encoder_steps(fold.encoder)]
    vlad = next((part for part in _encoders(fold) if isinstance(part, VLAD)), None)
    extractor = evaluation.extractor
    if extractor is None or vlad is None or set(extractor.grids_) == {(1, 1)}:
        return None
    images = np.unique(np.linspace(0, len(fold.test) - 1, min(len(fold.test), _LOOKED_AT)).astype(np.intp))
    images = fold.test[images]
    descriptors = in_memory(evaluation, images.tolist())
    while isinstance(steps[0], DescriptorProjection):
        descriptors = steps.pop(0).transform(descriptors)
    cells = assign(descriptors.values, vlad.cluster_centers_, backend=vlad.backend, n_threads=vlad.n_threads)
    names = evaluation.dataset.class_names
    # With soft assignment, the term of a descriptor is a sum over several clusters.
    is_split = vlad is steps[0] and vlad.assignment == "hard"
    found = _Found(
        descriptors=descriptors,
        cells=cells,
        distances=np.linalg.norm(descriptors.values - vlad.cluster_centers_[cells], axis=1),
        owner=np.repeat(np.arange(len(images)), np.diff(descriptors.offsets)),
        classes=np.asarray(evaluation.dataset.labels)[images],
        n_classes=len(names),
        terms=first_order_evidence(descriptors, *steps, fold.head).terms if is_split else None,
    )
    clusters = found.clusters(len(vlad.cluster_centers_))
    drawn = _draw(evaluation, images, found, clusters, short_names(names, _NAME_LENGTH))
    caption = f"Patches of {len(images)} held-out images"
    if clusters[0].gap is None:
        caption = f"Number of each cluster and its share of the descriptors of {len(images)} held-out images"
    return ClusterPictures(clusters, drawn, caption)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Found:
    """Descriptors of held-out images, the cluster, image and evidence of each."""

    descriptors: Descriptors
    cells: NDArray[Any]  # (N,)
    distances: NDArray[Any]  # (N,), to the centre of its own cluster
    owner: NDArray[np.intp]  # (N,)
    classes: NDArray[Any]  # (B,)
    n_classes: int
    terms: NDArray[np.float64] | None  # (N, n_columns)

    def clusters(self, n: int) -> list[Cluster]:
        """Return the most important of `n` clusters."""
        counts = np.zeros((self.n_classes, n))
        np.add.at(counts, (self.classes[self.owner], self.cells), 1)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        gaps = self._gaps(n)
        known = gaps is not None and gaps.mean(axis=1).sum() > 0
        mean = gaps.mean(axis=1) / gaps.mean(axis=1).sum() if gaps is not None and known else None
        order = np.argsort(-(counts.sum(axis=0) if mean is None else mean), kind="stable")
        used = [k for k in order.tolist() if counts[:, k].sum() > 0][:N_CLUSTERS]
        two = gaps is None or gaps.shape[1] == 1
        return [
            Cluster(
                k,
                None if mean is None else float(mean[k]),
                1 if gaps is None or two else int(gaps[k].argmax()),
                share[:, k],
            )
            for k in used
        ]

    def _gaps(self, n: int) -> NDArray[np.float64] | None:
        """Return the gap of each of `n` clusters for each column of the decision value."""
        if self.terms is None:
            return None
        n_images, n_columns = len(self.classes), self.terms.shape[1]
        place = self.owner * n + self.cells
        gaps = np.zeros((n, n_columns))
        for column in range(n_columns):
            parts = np.bincount(place, self.terms[:, column], n_images * n).reshape(n_images, n)
            own = self.classes == (1 if n_columns == 1 else column)
            if own.any() and not own.all():
                gaps[:, column] = parts[own].mean(axis=0) - parts[~own].mean(axis=0)
        return gaps

    def groups(self, cluster: Cluster) -> list[list[int]]:
        """Return the descriptors to show: nearest to the centre, most for the class, most against it."""
        rows = np.flatnonzero(self.cells == cluster.number)
        nearest = rows[np.argsort(self.distances[rows], kind="stable")]
        if self.terms is None or cluster.gap is None:
            return [self._one_an_image(nearest, _PATCHES)]
        column = 0 if self.terms.shape[1] == 1 else cluster.speaks_for
        rising = rows[np.argsort(self.terms[rows, column], kind="stable")]
        n = _PATCHES // 3
        return [self._one_an_image(some, n) for some in (nearest, rising[::-1], rising)]

    def _one_an_image(self, rows: NDArray[np.intp], n: int) -> list[int]:
        """Return the first descriptor of each image, at most `n`."""
        _, firsts = np.unique(self.owner[rows], return_index=True)
        shown: list[int] = rows[np.sort(firsts)][:n].tolist()
        return shown


def _draw(
    evaluation: Evaluation,
    images: NDArray[np.intp],
    found: _Found,
    clusters: Sequence[Cluster],
    names: Sequence[str],
) -> Image.Image:
    """Draw a row of patches for each cluster."""
    pitch, font = _PATCH + _GAP, ImageFont.load_default(size=_FONT_SIZE)
    grouped = clusters[0].gap is not None
    top = _TOP if grouped else 0
    n = _PATCHES // 3 if grouped else _PATCHES
    width = _MARGIN + _PATCHES * pitch + (2 * _BETWEEN if grouped else 0)
    drawn = Image.new("RGB", (width, top + len(clusters) * pitch), "white")
    pen = ImageDraw.Draw(drawn)
    for g, title in enumerate(("nearest to the centre", "most for", "most against") if grouped else ()):
        pen.text((_MARGIN + g * (n * pitch + _BETWEEN), 4), title, fill="black", font=font)
    for line, cluster in enumerate(clusters):
        y = top + line * pitch
        inside = np.mean(found.cells == cluster.number)
        second = f"{inside:.1%}" if cluster.gap is None else f"{cluster.gap:.0%} of the gap"
        text = f"no. {cluster.number}\n{second}"
        text += f"\n{names[cluster.speaks_for]}" if grouped else ""
        pen.multiline_text((4, y + _PATCH // 2), text, fill="black", font=font, anchor="lm")
        for g, rows in enumerate(found.groups(cluster)):
            for column, row in enumerate(rows):
                image = int(found.owner[row])
                place = row - int(found.descriptors.offsets[image])
                pixels = load_image(evaluation.dataset.paths[int(images[image])], on_damage="ignore")
                x = _MARGIN + g * (n * pitch + _BETWEEN) + column * pitch
                drawn.paste(_patch(pixels, place, evaluation.extractor), (x, y))
    return drawn


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
