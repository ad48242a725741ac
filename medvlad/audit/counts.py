r"""Findings by counting: patients, classes, borders, boxes and sizes.

*The priors of training and test part differ* if a test of part against class, in which each patient counts
once (:mod:`medvlad.audit.group_test`), has p < 0.01 and the total variation distance of the class shares is
at least 0.05. The distance is

.. math::

    \tfrac{1}{2} \sum_k |p_\mathrm{train}(k) - p_\mathrm{test}(k)|

*A border or box goes with the class* if the same test of border against class has p < 0.001 and the shares of
two classes differ by 0.1 or more. It is no finding if under 1 % of the images have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.audit.finding import Finding, ReadImages, Severity, finding, plural
from medvlad.audit.group_test import group_p_value
from medvlad.audit.images import ImageFacts

__all__ = [
    "class_findings",
    "count_images",
    "frame_findings",
    "measure_sizes",
    "patient_findings",
    "size_findings",
    "unreadable_findings",
]

_IMBALANCE = (1.5, 2.0)  # ratio of largest to smallest class for a note, and for a warning
_IMBALANCE_FROM = 20  # minimum number of images of the largest class
_PRIOR_P, _PRIOR_DISTANCE = 0.01, 0.05
_SMALL_SIDE = 64  # pixels
_VARIED_SIZE = 2.0  # ratio of the largest to the smallest width or height
_MEDIAN_RATIO = 1.2  # ratio of the medians of two classes
_BORDER_WIDTH = 0.02  # share of the side
_MIN_SHARE, _MIN_COUNT = 0.01, 3  # of images with a border or box; fewer are no finding
_CLASS_P, _CLASS_DIFFERENCE = 0.001, 0.1


def unreadable_findings(unreadable: Sequence[tuple[str, str]], n: int) -> list[Finding]:
    """Report unreadable files, given as (name, reason), of `n` files."""
    if not unreadable:
        return []
    sentence = (
        f"{len(unreadable)} of {plural(n, 'image')} cannot be read and are left out of all other findings"
    )
    return [
        finding("unreadable", "warning", sentence, [name for name, _ in unreadable], n_images=len(unreadable))
    ]


def patient_findings(images: ReadImages) -> list[Finding]:
    """Report patients with images in both parts, and patients with images of several classes."""
    if images.patients is None:
        return []
    found = []
    names, patient = np.unique(images.patients, return_inverse=True)
    if images.parts is not None:
        test = images.parts == "test"
        both = np.intersect1d(patient[test], patient[~test])
        n_train, n_test = (int(np.isin(patient[part], both).sum()) for part in (~test, test))
        if len(both):
            sentence = (
                f"{plural(len(both), 'patient')} in both training and test: "
                f"{plural(n_train, 'training image')}, {plural(n_test, 'test image')}"
            )
            found.append(
                finding(
                    "patient_in_both_parts",
                    "error",
                    sentence,
                    [str(names[i]) for i in both],
                    n_patients=len(both),
                    n_train_images=n_train,
                    n_test_images=n_test,
                )
            )
    pairs = np.unique(np.column_stack([patient, images.labels]), axis=0)
    several = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
    if len(several):
        n_images = int(np.isin(patient, several).sum())
        sentence = f"{plural(len(several), 'patient')} with images of several classes ({n_images} images)"
        found.append(
            finding(
                "patient_several_labels",
                "warning",
                sentence,
                [str(names[i]) for i in several],
                n_patients=len(several),
                n_images=n_images,
            )
        )
    return found


def count_images(images: ReadImages) -> dict[str, NDArray[np.int64]]:
    """Return the number of images of each class, by part. Without parts the only key is "all"."""
    if images.parts is None:
        return {"all": np.bincount(images.labels, minlength=len(images.class_names))}
    return {
        part: np.bincount(images.labels[images.parts == part], minlength=len(images.class_names))
        for part in ("train", "test")
        if (images.parts == part).any()
    }


def class_findings(images: ReadImages, units: NDArray[np.int64], random_state: int) -> list[Finding]:
    """Report classes that are absent, rare, or differ in their shares between the two parts.

    Images with the same number in `units` are of one patient, or copies. `random_state` is the seed of the
    tests.
    """
    found: list[Finding] = []
    counts = count_images(images)
    for part, by_class in counts.items():
        where = "" if part == "all" else f" in the {part} part"
        absent = [images.class_names[k] for k in np.flatnonzero(by_class == 0)]
        if absent:
            sentence = f"no image{where} of: {', '.join(absent)}"
            found.append(finding("class_absent", "warning", sentence, absent, part=part))
        present = by_class[by_class > 0]
        ratio = float(present.max() / present.min())
        if ratio >= _IMBALANCE[0] and present.max() >= _IMBALANCE_FROM:
            severity: Severity = "warning" if ratio >= _IMBALANCE[1] else "note"
            listed = ", ".join(f"{name} {n}" for name, n in zip(images.class_names, by_class, strict=True))
            sentence = f"classes{where} are unbalanced, {ratio:.1f} to 1 ({listed})"
            found.append(finding("class_imbalance", severity, sentence, part=part, ratio=ratio))
    if len(counts) == 2 and images.parts is not None:
        p_value = group_p_value((images.parts == "test").astype(np.int64), images.labels, units, random_state)
        found += _prior_findings(images.class_names, counts["train"], counts["test"], p_value)
    return found


def _prior_findings(
    class_names: list[str], train: NDArray[np.int64], test: NDArray[np.int64], p_value: float
) -> list[Finding]:
    p_train, p_test = train / train.sum(), test / test.sum()
    distance = float(np.abs(p_train - p_test).sum() / 2)
    if p_value >= _PRIOR_P or distance < _PRIOR_DISTANCE:
        return []
    listed = ", ".join(
        f"{name} {a:.0%} and {b:.0%}" for name, a, b in zip(class_names, p_train, p_test, strict=True)
    )
    return [
        finding(
            "priors_differ",
            "warning",
            f"shares of the classes differ between training and test: {listed}",
            distance=distance,
            p=p_value,
        )
    ]


def frame_findings(
    images: ReadImages, facts: Sequence[ImageFacts], units: NDArray[np.int64], random_state: int
) -> list[Finding]:
    """Report images of a single colour, and borders and boxes of one colour.

    `units` and `random_state` are those of :func:`class_findings`.
    """
    found: list[Finding] = []
    blank = np.array([one.border[0] == 1 for one in facts])
    if blank.any():
        n = int(blank.sum())
        sentence = f"{plural(n, 'image')} of a single colour"
        names = [images.names[i] for i in np.flatnonzero(blank)]
        found.append(finding("blank", "warning", sentence, names, n_images=n))
    widths = np.array([max(one.border) for one in facts])

    def p_value(there: NDArray[np.bool_]) -> float:
        return group_p_value(images.labels, there.astype(np.int64), units, random_state)

    for colour in ("black", "white", "one colour"):
        of_it = np.array([one.border_colour == colour for one in facts])
        there = (widths >= _BORDER_WIDTH) & ~blank & of_it
        what = f"a border of one colour, {_colour(colour)}"
        found += _habit("uniform_border", what, images, there, widths, p_value, {"colour": colour})
    boxes = [{(box.place, box.colour): box.share for box in one.boxes} for one in facts]
    for place, colour in sorted({key for one in boxes for key in one}):
        areas = np.array([one.get((place, colour), 0.0) for one in boxes])
        what = f"a box of one colour, {_colour(colour)}, at the {place}"
        more = {"colour": colour, "place": place}
        found += _habit("uniform_box", what, images, areas > 0, areas, p_value, more)
    return found


def _colour(name: str) -> str:
    return "neither black nor white" if name == "one colour" else name


def _habit(
    kind: str,
    what: str,
    images: ReadImages,
    there: NDArray[np.bool_],
    size: NDArray[np.float64],
    p_value_of: Callable[[NDArray[np.bool_]], float],
    more: dict[str, str],
) -> list[Finding]:
    """Report a border or box that many images have, with its share in each class."""
    n = int(there.sum())
    if n < max(_MIN_COUNT, _MIN_SHARE * len(images)):
        return []
    k = len(images.class_names)
    own = np.bincount(images.labels[there], minlength=k)
    total = np.bincount(images.labels, minlength=k)
    shares = {name: float(a / b) for name, a, b in zip(images.class_names, own, total, strict=True) if b}
    p_value = p_value_of(there)
    apart = max(shares.values()) - min(shares.values())
    with_class = p_value < _CLASS_P and apart >= _CLASS_DIFFERENCE
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    median = float(np.median(size[there]))
    measure = "of the area" if kind == "uniform_box" else "of the side"
    return [
        finding(
            kind,
            "warning" if with_class else "note",
            f"{plural(n, 'image')} with {what} (median {median:.0%} {measure})"
            f"{', which goes with the class' if with_class else ''}: {listed}",
            [images.names[i] for i in np.flatnonzero(there)],
            n_images=n,
            shares=shares,
            median=median,
            p=p_value,
            **more,
        )
    ]


def measure_sizes(images: ReadImages, facts: Sequence[ImageFacts]) -> dict[str, Any]:
    """Return the ranges of width and height, and their medians in each class, in pixels."""
    size = np.array([(one.width, one.height) for one in facts])
    medians = {}
    for label, name in enumerate(images.class_names):
        own = size[images.labels == label]
        if len(own):
            medians[name] = [float(value) for value in np.median(own, axis=0)]
    return {
        "width": [int(size[:, 0].min()), int(size[:, 0].max())],
        "height": [int(size[:, 1].min()), int(size[:, 1].max())],
        "median_width_height": medians,
    }


def size_findings(images: ReadImages, facts: Sequence[ImageFacts]) -> list[Finding]:
    """Report small images, sizes that vary, and sizes that differ between classes."""
    found: list[Finding] = []
    sizes = measure_sizes(images, facts)
    small = [images.names[i] for i, one in enumerate(facts) if min(one.width, one.height) < _SMALL_SIDE]
    if small:
        sentence = f"{plural(len(small), 'image')} with a side below {_SMALL_SIDE} pixels"
        found.append(finding("small_images", "warning", sentence, small, n_images=len(small)))
    (width, widest), (height, highest) = sizes["width"], sizes["height"]
    if widest / width >= _VARIED_SIZE or highest / height >= _VARIED_SIZE:
        sentence = f"sizes vary: {width} to {widest} pixels wide, {height} to {highest} pixels high"
        found.append(finding("sizes_vary", "note", sentence, width=[width, widest], height=[height, highest]))
    medians = np.array(list(sizes["median_width_height"].values()))
    if (medians.max(axis=0) / medians.min(axis=0) >= _MEDIAN_RATIO).any():
        listed = ", ".join(
            f"{name} {w:.0f} x {h:.0f}" for name, (w, h) in sizes["median_width_height"].items()
        )
        sentence = f"classes differ in size (median width x height): {listed}"
        found.append(
            finding("sizes_by_class", "note", sentence, median_width_height=sizes["median_width_height"])
        )
    return found
