"""Evidence maps: a linear decision value, split exactly over the places of an image.

A decision value w . z + b is a sum over descriptors x_i wherever the way from them to z is a sum and scalings
of the image as a whole. Cell k of VLAD has the centre c_k, and a is the assignment::

    avg     z = s (1/n) sum_i x_i                         term_i = s (1/n) w . x_i
    sum     z = s sum_i x_i                               term_i = s w . x_i
    words   z_k = s (1/n) sum_{i in cell k} idf_k         term_i = s (1/n) w_a(i) idf_a(i)
    max     z_j = s x_ij at the i where x_ij is largest   term_i = s sum of w_j x_ij over those j
    VLAD    z_k = s s_k sum_{i in cell k} (x_i - c_k)     term_i = s s_a(i) w_a(i) . (x_i - c_a(i))

s is one over the norm that the L2 normalisation divides by and s_k that of the intra-normalisation (1 where
there is none, 0 where the norm is below 1e-12). Both depend on the image: they are held at its own values, as
are the shares of a descriptor that is in several cells (it has a term of each), and the lengths and masses
that residuals are divided by. Encoders side by side (FeatureUnion) add
up. A tile is an image of its own: s is of all tiles together, whatever else is of the tile.
What is done to each descriptor alone comes before: give the descriptors as it leaves them.
A PCA behind the encoder, whitening or not, is affine, and goes into w and b; an L2 normalisation behind that
is one more factor of s. So, for each class, sum_i term_i + b is the decision value but for rounding.

A map says where the numbers come from, not what a clinician would look at. A place whose descriptors have a
centre of their own leaves hardly a residual, so VLAD's evidence for it is small however telling it is.

Signed power normalisation, ``sign(v) |v|^p``, is not additive: no split of it is exact. The first-order form
is its derivative, with all norms held: the term of a descriptor is how fast the decision value grows with
that descriptor's share in the residual::

    V_k = sum_{i in cell k} t_i (x_i - c_k)
    term_i = d(w . z) / d t_i at t = 1 = s s_k sum_j w_kj p |V_kj|^(p-1) (x_ij - c_kj)

where V_kj = 0 has no derivative and adds nothing. These terms add up to p times the decision value less b.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import Normalizer

from medvlad._util.validate import InputError
from medvlad.backends.normalise import NORM_FLOOR
from medvlad.descriptors.ragged import Descriptors, as_descriptors
from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.pooling import GlobalPool
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.encoders.vlad_functions import assign
from medvlad.images.colour_bar import add_colour_bar
from medvlad.images.read import load_image
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = [
    "Evidence",
    "evidence",
    "evidence_map",
    "evidence_maps",
    "evidence_picture",
    "first_order_evidence",
    "has_evidence",
    "is_additive",
    "largest_evidence",
    "overlay",
    "spread",
]

Matrix = NDArray[np.float64]

_FOR, _AGAINST = (200, 30, 30), (30, 70, 200)
_MOST_COLOUR = 0.75
_GAP = 8  # pixels
_BAR_WIDTH, _BAR_GREY = 24, 200  # pixels and grey level of a colour bar


@dataclass(frozen=True)
class Evidence:
    """Terms of decision values.

    Attributes
    ----------
    terms : ndarray of float64, shape (N, n_columns)
        What each descriptor adds; rows as in the descriptors. The columns are those of the classifier's
        `coef_`: one of ``classes_[1]`` for two classes, else one a class.
    bias : ndarray of float64, shape (B, n_columns)
        What does not come from any descriptor.
    offsets : ndarray of int64, shape (B + 1,)
        Rows of each image.
    """

    terms: Matrix
    bias: Matrix
    offsets: NDArray[np.int64]

    def decision(self) -> Matrix:
        """Add terms and bias up, shape (B, n_columns): the classifier's decision values."""
        totals = np.zeros((len(self.bias), self.terms.shape[1]))
        for i in range(len(totals)):
            totals[i] = self.terms[self.offsets[i] : self.offsets[i + 1]].sum(axis=0)
        return totals + self.bias


def evidence(descriptors: Any, encoder: Any, *steps: Any) -> Evidence:
    """Split decision values over descriptors, exactly.

    Parameters
    ----------
    descriptors : Descriptors, list of (n_i, D) or array (B, n, D)
    encoder : GlobalPool (but "gem"), VLAD (power=1) or BagOfWords, fitted; SpatialTiles of one, or a
        FeatureUnion of them
    *steps : PCA or Normalizer (norm="l2") of scikit-learn in any number, and WideLinearSVC at the end; fitted

    Returns
    -------
    Evidence
        Whose sums are what the last step's `decision_function` says of these images, but for rounding.

    Raises
    ------
    InputError
        If a step is not a sum and a scaling of the image as a whole.
    """
    if not is_additive(encoder):
        raise InputError(
            "a signed power cannot be split exactly over descriptors: use "
            "first_order_evidence, or an encoder with power=1"
        )
    return _split(descriptors, encoder, steps)


def first_order_evidence(descriptors: Any, encoder: Any, *steps: Any) -> Evidence:
    """Split decision values over descriptors to first order, where VLAD has a signed power.

    Parameters and errors as :func:`evidence`. The sums are those that the module's head gives, p times the
    decision value less the bias; with ``power=1`` they are those of :func:`evidence`.
    """
    return _split(descriptors, encoder, steps)


def is_additive(encoder: Any) -> bool:
    """Whether an encoder's vectors are a sum over descriptors but for their norms: no signed power."""
    parts = [part for _, part in encoder.transformer_list] if isinstance(encoder, FeatureUnion) else [encoder]
    return all(getattr(_within(part), "power", 1.0) == 1 for part in parts)


def has_evidence(encoder: Any) -> bool:
    """Whether decisions behind an encoder can be split over descriptors, exactly or to first order."""
    parts = [part for _, part in encoder.transformer_list] if isinstance(encoder, FeatureUnion) else [encoder]
    inner = [_within(part) for part in parts]
    return all(
        isinstance(part, VLAD | BagOfWords) or (isinstance(part, GlobalPool) and part.mode != "gem")
        for part in inner
    )


def _within(encoder: Any) -> Any:
    """Return the encoder of the tiles, where there are some."""
    return encoder.encoder_ if isinstance(encoder, SpatialTiles) else encoder


def _split(descriptors: Any, encoder: Any, steps: tuple[Any, ...]) -> Evidence:
    batch = as_descriptors(descriptors).to_host()
    shares = np.ones(len(batch.values)) if batch.weights is None else batch.weights
    *between, classifier = steps or (None,)
    if not isinstance(classifier, WideLinearSVC):
        what = type(classifier).__name__
        raise InputError(f"evidence is for a linear classifier, WideLinearSVC, at the end, not for {what}")
    # What the vectors are as they go through the steps: their norms are needed.
    vectors = np.asarray(encoder.transform(batch))
    seen: list[NDArray[Any]] = []
    for step in between:
        seen.append(vectors)
        if not isinstance(step, PCA | Normalizer) or getattr(step, "norm", "l2") != "l2":
            raise InputError(
                f"{type(step).__name__} is not a sum and a scaling: evidence is for PCA and Normalizer('l2') "
                "between encoder and classifier"
            )
        vectors = np.asarray(step.transform(vectors))
    weights, constant = (
        np.asarray(classifier.coef_, np.float64),
        np.asarray(classifier.intercept_, np.float64),
    )
    bias = np.tile(constant, (len(batch), 1))
    factor = np.ones((len(batch), 1))
    for step, before in zip(reversed(between), reversed(seen), strict=True):
        if isinstance(step, Normalizer):
            norms = np.linalg.norm(before.astype(np.float64), axis=1, keepdims=True)
            factor /= np.where(norms > 0, norms, 1.0)
        else:
            weights = weights @ _projection(step)
            bias -= factor * (weights @ step.mean_)
    terms = _terms(batch, shares, encoder, weights)
    return Evidence(terms * np.repeat(factor, np.diff(batch.offsets), axis=0), bias, batch.offsets)


def _terms(batch: Descriptors, shares: Matrix, encoder: Any, weights: Matrix) -> Matrix:
    """Terms (N, n_columns) before what comes behind the encoder; `shares` (N,) are weights of rows."""
    if isinstance(encoder, GlobalPool):
        return _of_pooling(batch, shares, encoder, weights)
    if isinstance(encoder, VLAD):
        return _of_vlad(batch, shares, encoder, weights)
    if isinstance(encoder, BagOfWords):
        return _of_words(batch, shares, encoder, weights)
    if isinstance(encoder, SpatialTiles):
        return _of_tiles(batch, shares, encoder, weights)
    if isinstance(encoder, FeatureUnion):
        if encoder.transformer_weights:
            raise InputError("evidence is not for a FeatureUnion with transformer_weights: leave them out")
        terms, start = np.zeros((len(batch.values), len(weights))), 0
        for _, part in encoder.transformer_list:
            width = len(part.get_feature_names_out())
            terms += _terms(batch, shares, part, weights[:, start : start + width])
            start += width
        return terms
    raise InputError(
        "evidence is for GlobalPool, VLAD, BagOfWords, SpatialTiles and unions of them, not for "
        f"{type(encoder).__name__}"
    )


def _projection(pca: PCA) -> Matrix:
    """Return (n_components, n_features), with whitening."""
    rows = np.asarray(pca.components_, np.float64)
    if pca.whiten:
        scale = np.sqrt(pca.explained_variance_)
        rows = rows / np.maximum(scale, np.finfo(scale.dtype).eps)[:, None]
    return rows


def _inverse(norms: Matrix, wanted: bool) -> Matrix:
    """One over norms, as the encoders take it."""
    if not wanted:
        return np.ones_like(norms)
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms >= NORM_FLOOR)


def _of_pooling(batch: Descriptors, shares: Matrix, encoder: GlobalPool, weights: Matrix) -> Matrix:
    """Terms (N, n_columns)."""
    counts = np.diff(batch.offsets)
    image = np.repeat(np.arange(len(batch)), counts)
    terms: Matrix
    if encoder.mode in ("avg", "sum"):
        terms = batch.values.astype(np.float64) @ weights.T * shares[:, None]
        if encoder.mode == "avg":
            terms /= _masses(shares, batch)[image][:, None]
    elif encoder.mode == "max":
        terms = np.zeros((len(batch.values), len(weights)))
        for i in np.flatnonzero(counts).tolist():
            x = batch[i].astype(np.float64)
            x[shares[batch.offsets[i] : batch.offsets[i + 1]] == 0] = -np.inf
            best = x.argmax(axis=0)
            if not np.isfinite(x[best[0], 0]):
                continue
            np.add.at(terms, batch.offsets[i] + best, (weights * x[best, np.arange(x.shape[1])]).T)
    else:
        raise InputError(
            f"pooling by {encoder.mode!r} is not a sum over descriptors: use 'avg', 'sum' or 'max'"
        )
    bare = copy(encoder)
    bare.l2_norm = False
    norms = np.linalg.norm(bare.transform(batch).astype(np.float64), axis=1)
    terms *= _inverse(norms, encoder.l2_norm)[image][:, None]
    return terms


def _of_words(batch: Descriptors, shares: Matrix, encoder: BagOfWords, weights: Matrix) -> Matrix:
    """Terms (N, n_columns)."""
    labels = assign(
        batch.values, encoder.cluster_centers_, backend=encoder.backend, n_threads=encoder.n_threads
    )
    counts = np.diff(batch.offsets)
    bare = copy(encoder)
    bare.l2_norm = False
    norms = np.linalg.norm(bare.transform(batch).astype(np.float64), axis=1)
    factors = _inverse(norms, encoder.l2_norm) / _masses(shares, batch)
    return (weights * encoder.idf_)[:, labels].T * (shares * np.repeat(factors, counts))[:, None]


def _of_tiles(batch: Descriptors, shares: Matrix, encoder: SpatialTiles, weights: Matrix) -> Matrix:
    """Terms (N, n_columns)."""
    terms = np.zeros((len(batch.values), len(weights)))
    width = len(encoder.encoder_.get_feature_names_out())
    squares, start = np.zeros(len(batch)), 0
    for rows, part in encoder.tiles_of(batch):
        within = weights[:, start : start + width]
        terms[rows] += _terms(part, shares[rows], encoder.encoder_, within)
        squares += (np.asarray(encoder.encoder_.transform(part), np.float64) ** 2).sum(axis=1)
        start += width
    factors = _inverse(np.sqrt(squares), encoder.l2_norm)
    return terms * np.repeat(factors, np.diff(batch.offsets))[:, None]


def _masses(shares: Matrix, batch: Descriptors) -> Matrix:
    """Sum of the weights of each image (B,), 1 where there are none."""
    totals = np.bincount(np.repeat(np.arange(len(batch)), np.diff(batch.offsets)), shares, len(batch))
    return np.where(totals > 0, totals, 1.0)


def _of_vlad(batch: Descriptors, shares: Matrix, encoder: VLAD, weights: Matrix) -> Matrix:
    """Terms (N, n_columns)."""
    origins = encoder.residual_origins
    n_clusters, width = origins.shape
    image = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    cells, within = encoder.memberships(batch.values)
    within = within * shares[:, None]
    bare = copy(encoder)
    bare.power, bare.intra_norm, bare.l2_norm = 1.0, False, False
    summed: Matrix = np.asarray(bare.transform(batch), np.float64).reshape(len(batch), n_clusters, width)
    size = np.abs(summed)
    powered = size**encoder.power
    factors = _inverse(np.linalg.norm(powered, axis=2), encoder.intra_norm)
    factors *= _inverse(np.linalg.norm(powered * factors[..., None], axis=(1, 2)), encoder.l2_norm)[:, None]
    slope = np.zeros_like(size)
    np.power(size, encoder.power - 1, out=slope, where=size > 0)
    slope *= encoder.power
    if encoder.mass_norm:
        masses = np.zeros((len(batch), n_clusters))
        np.add.at(masses, (image[:, None], cells), within)
        within = within * _inverse(masses, True)[image[:, None], cells]
    terms = np.zeros((len(batch.values), len(weights)))
    by_cell = weights.reshape(-1, n_clusters, width)
    for k in range(n_clusters):
        rows, column = np.nonzero(cells == k)
        residuals = (batch.values[rows].astype(np.float64) - origins[k]) * within[rows, column][:, None]
        if encoder.local_axes:
            residuals = residuals @ encoder.rotations_[k].T.astype(np.float64)
        if encoder.power != 1:
            residuals *= slope[image[rows], k]
        terms[rows] += residuals @ by_cell[:, k].T * factors[image[rows], k][:, None]
    return terms


def spread(values: Matrix, side: tuple[int, int]) -> Matrix:
    """Spread sums over a coarse grid evenly over a finer one of the same area; the total stays.

    Parameters
    ----------
    values : ndarray of shape (h, w, ...)
    side : (int, int)
        Height and width of the finer grid.

    Returns
    -------
    ndarray of float64, shape (height, width, ...)
    """
    for axis, size in enumerate(side):
        values = np.moveaxis(np.tensordot(_shares(values.shape[axis], size), values, (1, axis)), 0, axis)
    return values


def _shares(coarse: int, fine: int) -> Matrix:
    """Share of each of `coarse` equal parts of a line that lies in each of `fine` equal parts of it."""
    starts, ends = np.arange(fine)[:, None] / fine, (np.arange(fine)[:, None] + 1) / fine
    begin, end = np.arange(coarse) / coarse, (np.arange(coarse) + 1) / coarse
    shares: Matrix = np.maximum(np.minimum(ends, end) - np.maximum(starts, begin), 0.0) * coarse
    return shares


def evidence_maps(
    decision: Evidence,
    index: int,
    grids: Sequence[tuple[int, int]],
    mirrored: Sequence[bool] | None = None,
) -> NDArray[np.float64]:
    """Lay the terms of one image out over its grid.

    Parameters
    ----------
    decision : Evidence
    index : int
        Which image.
    grids : sequence of (h, w)
        Of each view in turn, as `grids_` of :class:`medvlad.CNNDescriptors`; descriptors row by row.
    mirrored : sequence of bool, or None
        Which of them are of the mirror image, as in `mirrored_` of :class:`medvlad.CNNDescriptors`: their
        terms go to the places that they come from. None: none of them.

    Returns
    -------
    ndarray of float64, shape (n_columns, H, W)
        On the finest of the grids. Terms of coarser scales are spread over the cells that they cover, so the
        sum over H and W, and the bias, are still the decision value.

    Raises
    ------
    InputError
        If the image has another number of descriptors than the grids.
    """
    terms = decision.terms[decision.offsets[index] : decision.offsets[index + 1]]
    if len(terms) != sum(h * w for h, w in grids):
        raise InputError(
            f"image {index} has {len(terms)} descriptors, other than grids of {', '.join(map(str, grids))}: "
            "take them from the CNNDescriptors that made the descriptors"
        )
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    maps = np.zeros((*finest, terms.shape[1]))
    start = 0
    for (h, w), flipped in zip(grids, mirrored or [False] * len(grids), strict=True):
        laid_out = terms[start : start + h * w].reshape(h, w, -1)
        maps += spread(laid_out[:, ::-1] if flipped else laid_out, finest)
        start += h * w
    return maps.transpose(2, 0, 1)


def overlay(
    pixels: NDArray[np.uint8], evidence_map: Matrix, *, side: int = 448, largest: float | None = None
) -> Image.Image:
    """Show an image, and beside it the same in grey with evidence in colour: red speaks for, blue against.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), uint8
    evidence_map : ndarray of shape (H, W)
        For one class; it covers the whole image.
    side : int, default=448
        Longer side of each of the two pictures in pixels.
    largest : float or None, default=None
        Magnitude that full colour stands for. Give several maps the same value to compare them.
        None: the largest magnitude in this map.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    plain = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if largest is None:
        largest = float(np.abs(evidence_map).max())
    largest = largest or 1.0
    share = Image.fromarray((evidence_map / largest).astype(np.float32))
    strength = np.asarray(share.resize(size, Image.Resampling.BICUBIC)).clip(-1, 1)[..., None]
    grey = np.asarray(plain.convert("L"), np.float32)[..., None]
    colour = np.where(strength > 0, np.array(_FOR, np.float32), np.array(_AGAINST, np.float32))
    amount = np.abs(strength) * _MOST_COLOUR
    shown = Image.fromarray(np.rint(grey * (1 - amount) + colour * amount).astype(np.uint8))
    both = Image.new("RGB", (2 * size[0] + _GAP, size[1]), "white")
    both.paste(plain, (0, 0))
    both.paste(shown, (size[0] + _GAP, 0))
    return both


def evidence_map(extractor: Any, steps: Sequence[Any], descriptors: Descriptors, label: int) -> Matrix:
    """Return where in an image the evidence for a label is.

    Parameters
    ----------
    extractor : CNNDescriptors
        The one that made the descriptors.
    steps : sequence of estimators
        Fitted, from descriptors to decision values.
    descriptors : Descriptors
        Of this image alone.
    label : int
        Index of the class.

    Returns
    -------
    ndarray of float64, shape (H, W)
        On the finest grid of the extractor; see :func:`evidence_maps`.
    """
    encoder, *behind = steps
    if isinstance(encoder, DescriptorProjection):
        descriptors = encoder.transform(descriptors)
        encoder, *behind = behind
    split = evidence if is_additive(encoder) else first_order_evidence
    terms = split(descriptors, encoder, *behind)
    maps = evidence_maps(terms, 0, extractor.grids_, extractor.mirrored_)
    own: Matrix = maps[label] if len(maps) > 1 else maps[0] * (1 if label == 1 else -1)
    return own


def largest_evidence(maps: Iterable[Matrix]) -> float:
    """Return the largest magnitude in several maps, for one colour scale of all of them. 0 without maps."""
    return max((float(np.abs(one).max()) for one in maps), default=0.0)


def evidence_picture(image: Any, own_map: Matrix, largest: float) -> Image.Image:
    """Draw an image, its evidence map beside it, and a colour bar.

    Parameters
    ----------
    image : path or array
    own_map : ndarray of shape (H, W)
        From :func:`evidence_map`.
    largest : float
        Magnitude that full colour stands for; see :func:`largest_evidence`.

    Returns
    -------
    PIL.Image.Image
        RGB; see :func:`overlay`.
    """
    picture = overlay(load_image(image), own_map, largest=largest)
    size = (picture.height, _BAR_WIDTH)
    # The bar is a map itself, so its colours are those of the maps.
    grey, ramp = np.full((*size, 3), _BAR_GREY, np.uint8), np.linspace(1, -1, picture.height)[:, None]
    both = overlay(grey, ramp, side=max(size), largest=1.0)
    bar = both.crop((both.width - _BAR_WIDTH, 0, both.width, picture.height))
    return add_colour_bar(picture, bar, [f"{largest:+.2g}", "0", f"{-largest:+.2g}"])
