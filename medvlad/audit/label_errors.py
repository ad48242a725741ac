r"""Rank images by the suspicion that their label is wrong.

Two witnesses judge each image. Both learn from the other folds only. Folds keep the images of a patient, and
copies of an image, together.

- *Margin*: the decision value of a linear SVM for the image's own class, minus the largest one of another
  class. The SVM is trained on mean descriptors of unit length. The margins with C = 3
  and C = 30 are averaged, each after division by its root mean square: few wrong labels want a large C, many
  a small one.
- *Neighbours*: the share of the own class among the 15 nearest images by cosine of the centred vectors, minus
  the largest share of another class. A near image counts more: its weight is
  :math:`\exp(10 (\cos - \cos_1))`, with the cosine of the nearest image. A class has the
  inverse of its number of images as weight.

The *suspicion* is minus the weighted mean of both, the margin with 0.75 and the neighbours, divided by their
root mean square, with 0.25. The larger it is, the more an image disagrees with its label. If a data set has
parts, the images of the training part are ranked.

**A finding** needs more than a high rank, because some images of every data set lie close to another class.
In each class, the median and the quartile below it give the centre and the spread of suspicion::

    z = (suspicion - median) / (0.7413 * 2 * (median - lower quartile))

The lower half is used because wrong labels are in the upper one. p is the upper tail of Student's t with 8
degrees of freedom at z. An image is reported if both witnesses speak for another class, and the rule of
Benjamini and Hochberg (1995) at level 0.05 over all images selects its p. If all labels are right, a report
is made for at most 5 % of the data sets as long as suspicion has tails no heavier than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from medvlad._util.blas_threads import single_threaded_blas
from medvlad.audit.finding import Finding, ReadImages, finding, plural
from medvlad.backends.normalise import unit
from medvlad.evaluation.class_counts import units_per_class
from medvlad.evaluation.folds import stratified_folds
from medvlad.svm.decision import decision_columns
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["LEVEL", "LabelScores", "label_findings", "label_scores"]

LEVEL = 0.05
"""Largest share of data sets without wrong labels in which a label is reported."""

_FOLDS = 5
_LEAST_UNITS = 10  # independent images of the smallest class
_PENALTIES = (3.0, 30.0)
_NEIGHBOURS = 15
_NEIGHBOUR_WEIGHT = 0.25
_SHARPNESS = 10.0
_DEGREES = 8
_NORMAL_QUARTILES = 0.7413  # spread of a normal distribution by the distance of its quartiles
_LISTED = 200


@dataclass(frozen=True, eq=False)
class LabelScores:
    """What two witnesses say about the label of each image.

    Attributes
    ----------
    suspicion : ndarray of shape (n,), float64
        The larger, the more likely the label is wrong.
    margin, neighbours : ndarray of shape (n,), float64
        Below 0: the SVM, or the neighbours, prefer another class.
    suggested : ndarray of shape (n,), int64
        The class other than its own that the SVM prefers.
    reported : ndarray of shape (n,), bool
        Whether the image is reported.
    """

    suspicion: NDArray[np.float64]
    margin: NDArray[np.float64]
    neighbours: NDArray[np.float64]
    suggested: NDArray[np.int64]
    reported: NDArray[np.bool_]


def label_scores(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], units: NDArray[np.int64], random_state: int
) -> LabelScores | str:
    """Judge the label of each image.

    Parameters
    ----------
    vectors : ndarray of shape (n, D), float32
        Encoded images.
    labels : ndarray of shape (n,), int64
        Class of each image, from 0 on.
    units : ndarray of shape (n,), int64
        Images with the same number stay together: those of one patient, and copies.
    random_state : int
        Seed of the folds.

    Returns
    -------
    LabelScores or str
        The str says why there are none.
    """
    present, label = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        return "not tried: there is a single class"
    smallest = int(units_per_class(label, units, len(present)).min())
    if smallest < _LEAST_UNITS:
        return f"not tried: the smallest class has {smallest} independent images, {_LEAST_UNITS} are needed"
    x = unit(vectors.astype(np.float64)).astype(np.float32)
    near = unit(x - x.mean(axis=0, dtype=np.float64)).astype(np.float32)
    margin, decision, shares = np.zeros(len(label)), *np.zeros((2, len(label), len(present)))
    with single_threaded_blas():
        folds = list(stratified_folds(label, units, _FOLDS, random_state))
        if any(len(np.unique(label[train])) < len(present) for train, _ in folds):
            return "not tried: folds that keep patients and copies together leave a class without images"
        for penalty in _PENALTIES:
            for train, test in folds:
                svm = WideLinearSVC(penalty).fit(x[train], label[train])
                decision[test] = decision_columns(svm.decision_function(x[test]))
            own, other = _margin(decision, label)
            margin += _scaled(own) / len(_PENALTIES)
        for train, test in folds:
            shares[test] = _neighbour_shares(near[train], label[train], near[test])
    neighbours, _ = _margin(shares, label)
    suspicion = -(1 - _NEIGHBOUR_WEIGHT) * margin - _NEIGHBOUR_WEIGHT * _scaled(neighbours)
    reported = _selected(_p_values(suspicion, label)) & (margin < 0) & (neighbours < 0)
    return LabelScores(suspicion, margin, neighbours, present[other], reported)


def _neighbour_shares(
    known: NDArray[np.float32], label: NDArray[np.int64], x: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the weighted share of each class among the nearest known images, shape (m, n_classes)."""
    cosine = (x @ known.T).astype(np.float64)
    n_nearest = min(_NEIGHBOURS, len(known))
    near = np.argpartition(-cosine, n_nearest - 1, axis=1)[:, :n_nearest]
    close = np.take_along_axis(cosine, near, axis=1)
    counts = np.bincount(label)
    weights = np.exp(_SHARPNESS * (close - close.max(axis=1, keepdims=True))) / counts[label[near]]
    shares = np.zeros((len(x), len(counts)))
    np.add.at(shares, (np.arange(len(x))[:, None], label[near]), weights)
    found: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return found


def _margin(
    values: NDArray[np.float64], label: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the value of the own class minus the largest other one, and that other class."""
    rows = np.arange(len(label))
    others = values.copy()
    others[rows, label] = -np.inf
    largest = others.argmax(axis=1)
    return values[rows, label] - others[rows, largest], largest


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values divided by their root mean square."""
    return values / max(float(np.sqrt((values**2).mean())), 1e-12)


def _p_values(suspicion: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    p = np.ones(len(suspicion))
    for one in np.unique(label):
        own = label == one
        low, median = np.quantile(suspicion[own], (0.25, 0.5))
        spread = max(2 * _NORMAL_QUARTILES * float(median - low), 1e-9)
        p[own] = student.sf((suspicion[own] - median) / spread, _DEGREES)
    return p


def _selected(p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which p-values the rule of Benjamini and Hochberg selects."""
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= LEVEL * np.arange(1, len(p) + 1) / len(p))
    if len(below) == 0:
        return np.zeros(len(p), bool)
    chosen: NDArray[np.bool_] = p <= ordered[below[-1]]
    return chosen


def label_findings(
    images: ReadImages,
    rows: NDArray[np.intp],
    scores: LabelScores | str,
) -> tuple[list[Finding], dict[str, Any] | str]:
    """Report labels that are probably wrong, and list the most suspicious ones.

    Parameters
    ----------
    images : ReadImages
    rows : ndarray of shape (m,), int
        The images that were ranked.
    scores : LabelScores or str
        From :func:`label_scores`.

    Returns
    -------
    findings : list of dict
    listed : dict or str
        listed: at most 200 images by falling suspicion, with image, label, suggested, suspicion, margin,
        neighbours and reported; and n_ranked. The str says why there are none.
    """
    if isinstance(scores, str):
        return [], scores
    order = np.lexsort((np.array([images.names[i] for i in rows]), -scores.suspicion))
    listed = [
        {
            "image": images.names[rows[i]],
            "label": images.class_names[images.labels[rows[i]]],
            "suggested": images.class_names[int(scores.suggested[i])],
            "suspicion": round(float(scores.suspicion[i]), 4),
            "margin": round(float(scores.margin[i]), 4),
            "neighbours": round(float(scores.neighbours[i]), 4),
            "reported": bool(scores.reported[i]),
        }
        for i in order[:_LISTED]
    ]
    n = int(scores.reported.sum())
    found = []
    if n:
        sentence = (
            f"{plural(n, 'label')} of {plural(len(rows), 'image')} "
            f"{'is' if n == 1 else 'are'} probably wrong: a classifier and the nearest images prefer another "
            "class"
        )
        names = [images.names[rows[i]] for i in order if scores.reported[i]]
        found.append(finding("suspicious_labels", "warning", sentence, names, n_images=n))
    return found, {"listed": listed, "n_ranked": len(rows)}
