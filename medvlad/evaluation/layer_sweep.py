"""Score the last layers of a network inside the training images.

Each layer is measured with each encoding by the inner folds of
:mod:`medvlad.evaluation.cross_validation`. Images of a patient stay together, and everything is fitted again
in each fold. No image of a test part is used. The network runs once for all layers, see
:mod:`medvlad.extraction.many_layers`.

Of the pairs of layer and encoding whose balanced accuracy is within one standard error of the best, fold by
fold, one with the first encoding is chosen, and of these the one with the fewest numbers in a descriptor.

Without a test part, a later evaluation uses the same images. The accuracy of the chosen layer is then
slightly optimistic.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from medvlad._util.text_table import text_table
from medvlad._util.validate import InputError, check_positive_int
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.pooling import holds_feature_files
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.choice import first_near_best
from medvlad.evaluation.class_counts import absent_classes
from medvlad.evaluation.cross_validation import inner_folds
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.image_transformer import log_damage
from medvlad.extraction.many_layers import candidate_layers, extract_layers
from medvlad.store.stored_descriptors import StoredDescriptors
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["LayerScore", "LayerSweep", "check_for_sweep", "sweep_layers"]

_IN_MEMORY = 1 << 30  # bytes; descriptors of a layer that take no more are loaded into memory
Images = Descriptors | StoredDescriptors


@dataclass(frozen=True)
class LayerScore:
    """Score of one layer with one encoding, inside the training images.

    Attributes
    ----------
    layer : str
        Name of the layer.
    grid : (int, int)
        Height and width of its map.
    n_features : int
        Width D of a descriptor.
    encoding : str
        Name of the encoding.
    balanced_accuracy : float
        Mean over the inner folds.
    standard_error : float
        Standard error of this mean.
    penalty : float
        C of the classifier.
    """

    layer: str
    grid: tuple[int, int]
    n_features: int
    encoding: str
    balanced_accuracy: float
    standard_error: float
    penalty: float


@dataclass(frozen=True)
class LayerSweep:
    """Result of :func:`sweep_layers`.

    Attributes
    ----------
    scores : list of LayerScore
        Layers from the front of the network to its end, each with all encodings.
    layer, encoding : str
        The layer and the encoding to take.
    n_images : int
        Number of training images.
    n_folds : int
        Number of inner folds.
    """

    scores: list[LayerScore]
    layer: str
    encoding: str
    n_images: int
    n_folds: int

    def table(self) -> str:
        """Return the scores as a table of text. A star marks what to take."""
        rows = [
            [
                f"{one.layer} *" if (one.layer, one.encoding) == (self.layer, self.encoding) else one.layer,
                f"{one.grid[0]} x {one.grid[1]} x {one.n_features}",
                one.encoding,
                f"{one.balanced_accuracy:.3f} +- {one.standard_error:.3f}",
                f"{one.penalty:g}",
            ]
            for one in self.scores
        ]
        return text_table(["layer", "map", "encoding", "balanced accuracy", "C"], rows)


def check_for_sweep(dataset: ImageFolder) -> None:
    """Raise InputError unless the rows of a data set are images with one class each."""
    if holds_feature_files(dataset):
        raise InputError(
            "layers are scored on images, and feature files hold descriptors of one layer: give the images"
        )
    if dataset.task != "classes":
        raise InputError(
            f"layers are scored with one class an image, and the data set has the task {dataset.task!r}: "
            "give images with one class each"
        )


def sweep_layers(
    extractor: CNNDescriptors,
    dataset: ImageFolder,
    encoders: Mapping[str, Any],
    classifier: WideLinearSVC,
    *,
    penalties: Sequence[float] | None = None,
    folds: int = 5,
    random_state: int = 0,
    n_layers: int = 6,
) -> LayerSweep:
    """Score the last layers of a network inside the training images.

    Parameters
    ----------
    extractor : CNNDescriptors
        With one scale. Its `layer` is the last layer that is scored. Without a `store`, a temporary one is
        used and removed.
    dataset : ImageFolder
        Its training part is used, or all images if it has no parts.
    encoders : dict of str to estimator
        Encodings by name, the cheapest first. They are cloned before they are fitted.
    classifier : WideLinearSVC
        It is cloned before it is fitted.
    penalties : sequence of float, or None, default=None
        Values of C to choose from. None: the C of `classifier`.
    folds : int, default=5
        Number of inner folds. Small classes reduce it.
    random_state : int, default=0
        Seed of the folds.
    n_layers : int, default=6
        Largest number of layers. See `medvlad.extraction.many_layers.last_layers`.

    Returns
    -------
    LayerSweep

    Raises
    ------
    InputError
        If the settings are wrong, the rows are no images with one class each, images cannot be read, or a
        class has too few of them.
    """
    check_positive_int(n_layers, "n_layers")
    check_for_sweep(dataset)
    if not encoders:
        raise InputError("there is no encoding to score layers with: name at least one")
    if dataset.splits is not None:
        dataset = dataset.take(np.flatnonzero(dataset.splits == "train"))
    extractor = clone(extractor)
    with ExitStack() as stack:
        if extractor.store is None:
            extractor.store = stack.enter_context(tempfile.TemporaryDirectory(prefix="medvlad-layers-"))
        layers = candidate_layers(extractor, n_layers)
        found, report = extract_layers(extractor, dataset.paths, layers)
        log_damage(report, len(dataset.paths))
        bad = {i for i, _ in report.skipped}
        kept = np.array([i for i in range(len(dataset.paths)) if i not in bad], np.intp)
        dataset = dataset.take(kept)
        if missing := absent_classes(dataset.labels, dataset.class_names):
            raise InputError(
                f"no usable training image is left of {', '.join(missing)}: add some or remove the class"
            )
        scores: list[LayerScore] = []
        by_fold: list[NDArray[np.float64]] = []
        for one_layer in found:
            descriptors = _in_memory(one_layer.descriptors.take(kept))
            for encoding, encoder in encoders.items():
                one = inner_folds(
                    descriptors,
                    dataset.labels,
                    dataset.groups,
                    encoder,
                    classifier,
                    [classifier.C] if penalties is None else penalties,
                    folds=folds,
                    random_state=random_state,
                )
                by_fold.append(one.scores)
                scores.append(
                    LayerScore(
                        one_layer.layer,
                        one_layer.grid,
                        descriptors.n_features,
                        encoding,
                        one.mean_score,
                        float(one.scores.std(ddof=1) / np.sqrt(len(one.scores))),
                        one.penalty,
                    )
                )
    rank = {name: i for i, name in enumerate(encoders)}
    by_cost = sorted(range(len(scores)), key=lambda i: (rank[scores[i].encoding], scores[i].n_features))
    taken = scores[int(first_near_best({str(i): by_fold[i] for i in by_cost}))]
    return LayerSweep(scores, taken.layer, taken.encoding, len(dataset.labels), len(by_fold[0]))


def _in_memory(stored: StoredDescriptors) -> Images:
    """Load small descriptors. Larger ones stay in the store and are read block by block."""
    if stored.nbytes <= _IN_MEMORY:
        with suppress(MemoryError):
            return stored.load()
    return stored
