r"""Split a linear decision value exactly into one term for each descriptor.

**Exact terms.** A decision value is :math:`w \cdot z + b`, with the encoded image :math:`z`. If :math:`z`
is a sum over descriptors :math:`x_i` followed by scalings of the whole image, then the decision value is a
sum over descriptors as well:

.. math::

   w \cdot z + b = \sum_i \text{term}_i + b .

Let :math:`n` be the number of descriptors of the image, :math:`a(i)` the cell of descriptor :math:`i`,
:math:`c_k` the centre of cell :math:`k` and :math:`w_k` the part of :math:`w` that belongs to it. The terms
are

.. math::

   \text{avg:} \quad z &= \frac{s}{n} \sum_i x_i,
   & \text{term}_i &= \frac{s}{n} \, w \cdot x_i

   \text{sum:} \quad z &= s \sum_i x_i,
   & \text{term}_i &= s \, w \cdot x_i

   \text{max:} \quad z_j &= s \, \max_i x_{ij},
   & \text{term}_i &= s \sum_{j \in M_i} w_j x_{ij}

   \text{words:} \quad z_k &= \frac{s}{n} \sum_{i : a(i) = k} \text{idf}_k,
   & \text{term}_i &= \frac{s}{n} \, w_{a(i)} \, \text{idf}_{a(i)}

   \text{VLAD:} \quad z_k &= s \, s_k \sum_{i : a(i) = k} (x_i - c_k),
   & \text{term}_i &= s \, s_{a(i)} \, w_{a(i)} \cdot (x_i - c_{a(i)})

:math:`M_i` is the set of coordinates in which descriptor :math:`i` has the maximum. The factor :math:`s` is
one over the norm of the L2 normalisation, and :math:`s_k` one over the norm of the intra-normalisation. A
factor is 1 without that normalisation, and 0 if the norm is below 1e-12 or rounding only. Both depend on the
image, and are held at their values for this image. The same holds for soft assignments (a descriptor in
several cells has a term for each), and for the lengths and masses that residuals are divided by.

- FeatureUnion: the terms of the encoders add up.
- Tiles: each tile is an image of its own, except that :math:`s` is that of all tiles together.
- PCA after the encoder, with or without whitening: it is affine, so it goes into :math:`w` and :math:`b`. An
  L2 normalisation after it is one more factor of :math:`s`.
- Steps before the encoder transform each descriptor alone. Pass the descriptors as they are after these
  steps.

**Signed power.** The normalisation :math:`\operatorname{sign}(v) |v|^p` is not additive, so no split of it is
exact. The first-order form is its derivative, with all norms held. The term of a descriptor is the rate at
which the decision value grows with the share :math:`t_i` of that descriptor in the residual:

.. math::

   V_k &= \sum_{i : a(i) = k} t_i (x_i - c_k)

   \text{term}_i &= \left. \frac{\partial (w \cdot z)}{\partial t_i} \right|_{t = 1}
   = s \, s_k \sum_j w_{kj} \, p \, |V_{kj}|^{p - 1} (x_{ij} - c_{kj}), \qquad k = a(i) .

Coordinates with :math:`V_{kj} = 0` have no derivative and add nothing. These terms add up to :math:`p` times
the decision value without :math:`b`.

**What the terms mean.** They say where the decision value comes from, not what a clinician would look at.
If a place has descriptors close to a centre, its residuals are small, so its VLAD evidence is small even if
it is typical of the class.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import Normalizer

from medvlad._util.loaded_class import is_instance_of
from medvlad._util.validate import InputError
from medvlad.backends.normalise import NORM_FLOOR
from medvlad.decisions.calibrated_svc import linear_part
from medvlad.descriptors.ragged import Descriptors, as_descriptors
from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.pooling import GlobalPool
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD, memberships_of
from medvlad.encoders.vlad_functions import assign

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

__all__ = [
    "Evidence",
    "evidence",
    "first_order_evidence",
    "has_evidence",
    "is_additive",
]

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """Decision values of B images, split over their N descriptors.

    Attributes
    ----------
    terms : ndarray of float64, shape (N, n_columns)
        Term of each descriptor. The columns are the rows of the classifier's `coef_`: one for each class, or
        with two classes one, that of ``classes_[1]``.
    bias : ndarray of float64, shape (B, n_columns)
        Part of the decision value that no descriptor contributes.
    offsets : ndarray of int64, shape (B + 1,)
        Image i owns the rows ``offsets[i]:offsets[i + 1]`` of `terms`.
    """

    terms: Matrix
    bias: Matrix
    offsets: NDArray[np.int64]

    def decision(self) -> Matrix:
        """Return the sum of terms and bias, shape (B, n_columns): the decision values."""
        totals = np.zeros((len(self.bias), self.terms.shape[1]))
        for i in range(len(totals)):
            totals[i] = self.terms[self.offsets[i] : self.offsets[i + 1]].sum(axis=0)
        return totals + self.bias


def evidence(descriptors: Any, encoder: Any, *steps: Any) -> Evidence:
    """Split decision values over descriptors, exactly.

    Parameters
    ----------
    descriptors : Descriptors, list of (n_i, D) or array (B, n, D)
        Input of `encoder`.
    encoder : fitted estimator
        GlobalPool (any mode but "gem"), VLAD with ``power=1``, BagOfWords, SpatialTiles of one of these, or a
        FeatureUnion of them.
    *steps : fitted estimators
        Any number of scikit-learn's PCA and Normalizer("l2"), then a WideLinearSVC, CalibratedSVC or
        LogisticRegression.

    Returns
    -------
    Evidence
        Its sums equal the output of `decision_function` for these images, except for rounding.

    Raises
    ------
    InputError
        If a step is neither a sum over descriptors nor a scaling of the whole image.
    """
    if not is_additive(encoder):
        raise InputError(
            "a signed power cannot be split exactly over descriptors: use first_order_evidence, or an "
            "encoder with power=1"
        )
    return _split(descriptors, encoder, steps)


def first_order_evidence(descriptors: Any, encoder: Any, *steps: Any) -> Evidence:
    """Split decision values over descriptors to first order, for VLAD with a signed power.

    The parameters and errors are those of :func:`evidence`. The terms of an image add up to `power` times the
    decision value without the bias. With ``power=1`` the result is that of :func:`evidence`.
    """
    return _split(descriptors, encoder, steps)


def is_additive(encoder: Any) -> bool:
    """Return whether an encoder's vectors are sums over descriptors, except for their norms.

    False if a VLAD has a signed power.
    """
    return all(getattr(part, "power", 1.0) == 1 for part in _parts(encoder))


def has_evidence(encoder: Any) -> bool:
    """Return whether decision values can be split over descriptors, exactly or to first order."""
    return all(
        isinstance(part, VLAD | BagOfWords) or (isinstance(part, GlobalPool) and part.mode != "gem")
        for part in _parts(encoder)
    )


def _parts(encoder: Any) -> list[Any]:
    """Return the encoders of a FeatureUnion, or the encoder itself. Tiles are replaced by their encoder."""
    parts = [part for _, part in encoder.transformer_list] if isinstance(encoder, FeatureUnion) else [encoder]
    return [part.encoder_ if isinstance(part, SpatialTiles) else part for part in parts]


def _split(descriptors: Any, encoder: Any, steps: tuple[Any, ...]) -> Evidence:
    """Split decision values; of a signed power, take the derivative."""
    batch = as_descriptors(descriptors).to_host()
    shares = np.ones(len(batch.values)) if batch.weights is None else batch.weights
    *between, classifier = steps or (None,)
    linear = linear_part(classifier)
    if linear is None:
        what = "no step" if classifier is None else type(classifier).__name__
        raise InputError(f"evidence needs a WideLinearSVC as the last step, got {what}: add one")
    # Keep the vectors before each step, because the norms of the image are needed.
    vectors = np.asarray(encoder.transform(batch))
    seen: list[NDArray[Any]] = []
    for step in between:
        seen.append(vectors)
        is_known = isinstance(step, Normalizer) or is_instance_of(step, "sklearn.decomposition", "PCA")
        if not is_known or getattr(step, "norm", "l2") != "l2":
            raise InputError(
                f"{type(step).__name__} between encoder and classifier cannot be split over descriptors: use "
                "PCA or Normalizer('l2') there"
            )
        vectors = np.asarray(step.transform(vectors))
    weights, constant = (
        np.asarray(linear.coef_, np.float64),
        np.asarray(linear.intercept_, np.float64),
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
    """Return the terms (N, n_columns) of an encoder for classifier weights (n_columns, width).

    `shares` (N,) are the weights of the descriptors.
    """
    if isinstance(encoder, GlobalPool):
        return _pooling_terms(batch, shares, encoder, weights)
    if isinstance(encoder, VLAD):
        return _vlad_terms(batch, shares, encoder, weights)
    if isinstance(encoder, BagOfWords):
        return _word_terms(batch, shares, encoder, weights)
    if isinstance(encoder, SpatialTiles):
        return _tile_terms(batch, shares, encoder, weights)
    if isinstance(encoder, FeatureUnion):
        if encoder.transformer_weights:
            raise InputError(
                "evidence does not support a FeatureUnion with transformer_weights: leave them out"
            )
        terms, start = np.zeros((len(batch.values), len(weights))), 0
        for _, part in encoder.transformer_list:
            width = len(part.get_feature_names_out())
            terms += _terms(batch, shares, part, weights[:, start : start + width])
            start += width
        return terms
    raise InputError(
        "evidence supports GlobalPool, VLAD, BagOfWords, SpatialTiles and unions of them, got "
        f"{type(encoder).__name__}: use one of these"
    )


def _projection(pca: PCA) -> Matrix:
    """Return the matrix of a PCA (n_components, n_features), including the whitening."""
    rows = np.asarray(pca.components_, np.float64)
    if pca.whiten:
        scale = np.sqrt(pca.explained_variance_)
        rows = rows / np.maximum(scale, np.finfo(scale.dtype).eps)[:, None]
    return rows


def _inverse(norms: Matrix, wanted: bool) -> Matrix:
    """Return one over norms, 0 for norms below the encoders' floor, and 1 if not `wanted`."""
    if not wanted:
        return np.ones_like(norms)
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms >= NORM_FLOOR)


def _pooling_terms(batch: Descriptors, shares: Matrix, encoder: GlobalPool, weights: Matrix) -> Matrix:
    """Return terms (N, n_columns)."""
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
            f"pooling with mode={encoder.mode!r} is not a sum over descriptors: use 'avg', 'sum' or 'max'"
        )
    bare = copy(encoder)
    bare.l2_norm = False
    norms = np.linalg.norm(bare.transform(batch).astype(np.float64), axis=1)
    terms *= _inverse(norms, encoder.l2_norm)[image][:, None]
    return terms


def _word_terms(batch: Descriptors, shares: Matrix, encoder: BagOfWords, weights: Matrix) -> Matrix:
    """Return terms (N, n_columns)."""
    labels = assign(
        batch.values, encoder.cluster_centers_, backend=encoder.backend, n_threads=encoder.n_threads
    )
    counts = np.diff(batch.offsets)
    bare = copy(encoder)
    bare.l2_norm = False
    norms = np.linalg.norm(bare.transform(batch).astype(np.float64), axis=1)
    factors = _inverse(norms, encoder.l2_norm) / _masses(shares, batch)
    return (weights * encoder.idf_)[:, labels].T * (shares * np.repeat(factors, counts))[:, None]


def _tile_terms(batch: Descriptors, shares: Matrix, encoder: SpatialTiles, weights: Matrix) -> Matrix:
    """Return terms (N, n_columns)."""
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
    """Return the sum of the descriptor weights of each image (B,), 1 if the sum is 0."""
    totals = np.bincount(np.repeat(np.arange(len(batch)), np.diff(batch.offsets)), shares, len(batch))
    return np.where(totals > 0, totals, 1.0)


def _vlad_terms(batch: Descriptors, shares: Matrix, encoder: VLAD, weights: Matrix) -> Matrix:
    """Return terms (N, n_columns)."""
    origins = encoder.residual_origins
    n_clusters, width = origins.shape
    image = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    memberships = memberships_of(encoder)
    cells, within = memberships.of(batch.values)
    within = within * shares[:, None]
    bare = copy(encoder)
    bare.power, bare.intra_norm, bare.l2_norm = 1.0, False, False
    summed: Matrix = np.asarray(bare.transform(batch), np.float64).reshape(len(batch), n_clusters, width)
    size = np.abs(summed)
    powered = size**encoder.power
    factors = _inverse(np.linalg.norm(powered, axis=2), encoder.intra_norm)
    if encoder.intra_norm:  # a cell whose sum is rounding only is zeros in the vector
        bare.intra_norm = True
        factors *= np.asarray(bare.transform(batch)).reshape(summed.shape).any(axis=2)
    factors *= _inverse(np.linalg.norm(powered * factors[..., None], axis=(1, 2)), encoder.l2_norm)[:, None]
    slope = np.zeros_like(size)
    np.power(size, encoder.power - 1, out=slope, where=size > 0)
    slope *= encoder.power
    if encoder.mass_norm:
        masses = np.zeros((len(batch), n_clusters))
        np.add.at(masses, (image[:, None], cells), within)
        within = within * _inverse(masses, True)[image[:, None], cells]
    scales = memberships.scales(batch.values, cells)
    if scales is not None:
        within = within * scales
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
