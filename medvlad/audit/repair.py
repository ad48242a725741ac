r"""Write a table of a data set in which no leak is left.

**Groups.** Images are in one group if they have a known patient, a file or the pixels in common, or are
nearly the same (:mod:`medvlad.audit.duplicates`), or if a chain of such pairs connects them. A person may
have decided otherwise, see :mod:`medvlad.audit.decisions`: a pair with the answer "no" is not connected, and
an uncertain pair is connected only by the answer "yes". Identical pixels stay together whatever the answer
is. The group becomes the patient in the table. An image alone without a known patient has none.

**Split.** If the data set has parts, a group in one part stays there. A group in both parts moves as a whole.
The largest groups go first, each to the part where the numbers of images of each class are then nearest to
those of the original split, unless a class would then have no training image:

.. math::

    \sum_{\mathrm{part}} \sum_k \left(\frac{n_k - n_k^0}{n_k^0 + 1}\right)^2

Without parts, the table names the folds of a cross-validation: stratified folds that keep groups together
(scikit-learn's StratifiedGroupKFold). Folds of the table that was audited are replaced.

Images that cannot be read, and images whose label a person called wrong, are left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.audit.decisions import Decisions
from medvlad.audit.groups import chain, connected
from medvlad.audit.run import Audit, below, root_of
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.manifest_writing import WrittenTable, check_table_name
from medvlad.datasets.patients import UNKNOWN
from medvlad.evaluation.class_counts import units_per_class
from medvlad.evaluation.folds import stratified_folds

__all__ = ["Repair", "check_decisions", "check_repair", "repaired"]

_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Repair:
    """A repaired data set.

    Attributes
    ----------
    table : WrittenTable
        Columns image, label and patient; split if there is one; site and covariates if the data set has them.
    n_groups : int
        Number of groups of several images.
    n_grouped : int
        Number of images in them.
    n_moved : int
        Number of images that moved to the other part.
    n_left_out : int
        Number of images whose label was called wrong.
    n_folds : int
        Number of folds. 0: the data set has parts, or a class is too small.
    """

    table: WrittenTable
    n_groups: int
    n_grouped: int
    n_moved: int
    n_left_out: int
    n_folds: int


def repaired(done: Audit, root: Path, decisions: Decisions | None = None, *, random_state: int = 0) -> Repair:
    """Return a table in which groups of related images are kept together.

    Parameters
    ----------
    done : Audit
        From :func:`medvlad.audit.run.run_audit`, without pseudonyms.
    root : Path
        Folder that the paths in the table are relative to.
    decisions : Decisions or None, default=None
        Answers of a person. None: nobody was asked.
    random_state : int, default=0
        Seed of the folds.

    Returns
    -------
    Repair

    Raises
    ------
    InputError
        If an image lies outside `root`, has a name that a table cannot hold, or a decision is about an image
        that the data set does not have.
    """
    answers = Decisions() if decisions is None else decisions
    data = done.dataset
    names = _names(data, Path(done.found["root"]))
    labels = [data.class_names[k] for k in data.labels]
    called = [answers.label_answer(name, label) for name, label in zip(names, labels, strict=True)]
    wrong = np.array(called) == "wrong"
    group = _groups(done, answers, names)
    kept = np.flatnonzero(~wrong)
    data, group = data.take(kept), np.unique(group[kept], return_inverse=True)[1]
    patient = _called(data, group)
    sizes = np.bincount(group)
    splits, n_folds = _splits(data, group, random_state)
    columns = {
        "image": [check_table_name(name) for name in _names(data, root)],
        "label": [data.class_names[k] for k in data.labels],
        "patient": patient,
    }
    if splits is not None:
        columns["split"] = splits.tolist()
    if data.sites is not None:
        columns["site"] = data.sites.tolist()
    columns |= {name: cells.tolist() for name, cells in data.covariates.items() if name not in columns}
    moved = 0 if data.splits is None or splits is None else int((splits != data.splits).sum())
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return Repair(
        WrittenTable(list(columns), rows, 0, None),
        int((sizes > 1).sum()),
        int(sizes[sizes > 1].sum()),
        moved,
        int(wrong.sum()),
        n_folds,
    )


def _names(data: ImageFolder, root: Path) -> list[str]:
    """Return the paths of images relative to a folder."""
    names = []
    for path in data.paths:
        name = os.path.relpath(path, root)
        if name.startswith(".."):
            raise InputError(
                f"the image {str(path)!r} lies outside the folder {str(root)!r}: give a folder that holds "
                "all images as `image_root`"
            )
        names.append(Path(name).as_posix())
    return names


def check_repair(data: ImageFolder, root: Path, decisions: Decisions | None = None) -> None:
    """Raise the errors of :func:`repaired` that depend on names only, before a long audit."""
    for name in _names(data, root):
        check_table_name(name)
    if decisions is not None:
        check_decisions(data, decisions)


def check_decisions(data: ImageFolder, decisions: Decisions) -> None:
    """Raise InputError if a decision is about an image that the data set does not have."""
    root = root_of(data)
    decisions.check([below(str(path), root) for path in data.paths])


def _groups(done: Audit, answers: Decisions, names: list[str]) -> NDArray[np.int64]:
    """Return the number of the group of each image. Images of one file have the same `groups`."""
    answers.check(done.listed)
    patients = [] if done.dataset.groups is None else [chain(done.dataset.groups)]
    return connected(done.copies, answers.of_pairs(names, done.copies.units), patients)


def _called(data: ImageFolder, group: NDArray[np.int64]) -> list[str]:
    """Return the patient of each image: the first name of its group. "" for an image alone and unknown."""
    n = len(data)
    known = np.zeros(n, bool)
    if data.groups is not None:
        known = np.ones(n, bool) if data.patient_sources is None else data.patient_sources != UNKNOWN
    sizes = np.bincount(group)
    names: dict[int, str] = {}
    for i in np.flatnonzero(known):
        assert data.groups is not None
        names[group[i]] = min(names.get(group[i], str(data.groups[i])), str(data.groups[i]))
    taken, number = set(names.values()), 0
    for k in np.unique(group):
        if k in names or sizes[k] == 1:
            continue
        number += 1
        while f"group{number}" in taken:
            number += 1
        names[k] = f"group{number}"
    return [names.get(k, "") for k in group]


def _splits(
    data: ImageFolder, group: NDArray[np.int64], random_state: int
) -> tuple[NDArray[np.str_] | None, int]:
    """Return the part or fold of each image, and the number of folds."""
    if data.splits is not None:
        return _moved(data.splits == "test", data.labels, group), 0
    counts = units_per_class(data.labels, group, len(data.class_names))
    n_folds = min(_FOLDS, int(counts[counts > 0].min()))
    if n_folds < 2:
        return None, 0
    fold = np.empty(len(data), "U1")
    for k, (_, test) in enumerate(stratified_folds(data.labels, group, n_folds, random_state)):
        fold[test] = str(k + 1)
    return fold, n_folds


def _moved(test: NDArray[np.bool_], labels: NDArray[np.int64], group: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return the parts after each group in both parts was moved to one of them."""
    n_classes = int(labels.max()) + 1
    wanted = np.stack([np.bincount(labels[test == part], minlength=n_classes) for part in (False, True)])
    test = test.copy()
    n_test, sizes = np.bincount(group, test), np.bincount(group)
    crossing = np.flatnonzero((n_test > 0) & (n_test < sizes))
    fixed = ~np.isin(group, crossing)
    counts = np.stack(
        [np.bincount(labels[fixed & (test == part)], minlength=n_classes) for part in (False, True)]
    )
    waiting = wanted.sum(axis=0) - counts.sum(axis=0)
    for k in crossing[np.argsort(-sizes[crossing], kind="stable")]:
        own = np.bincount(labels[group == k], minlength=n_classes)
        waiting -= own
        costs = []
        for part in (0, 1):
            after = counts.copy()
            after[part] += own
            costs.append((((after - wanted) / (wanted + 1)) ** 2).sum())
        if ((counts[0] + waiting == 0) & (own > 0)).any():
            costs[1] = np.inf
        chosen = int(np.argmin(costs))
        counts[chosen] += own
        test[group == k] = bool(chosen)
    return np.where(test, "test", "train")
