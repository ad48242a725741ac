"""Extract the images of a data set or open its feature files, and list what is skipped or damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvlad._util.counters import OUTCOMES, counting
from medvlad._util.passes import Runner
from medvlad._util.validate import InputError
from medvlad.bags.data_set import open_data_set
from medvlad.datasets.folders import ImageFolder
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.image_transformer import log_damage

__all__ = ["Workers", "calibration_images", "extract_data_set"]

_IN_MEMORY = 1 << 30  # bytes; descriptors from a store are loaded into memory if they take no more than this


@dataclass(frozen=True)
class Workers:
    """Who does the work on descriptors that stay outside memory.

    Attributes
    ----------
    runner : Runner
        Carries out k-means and encoding, see :mod:`medvlad._util.passes`.
    extract : callable or None, default=None
        Called with a network and paths; puts the descriptors into the network's store. None: this process
        extracts.
    """

    runner: Runner
    extract: Callable[[CNNDescriptors, Sequence[Path]], Any] | None = None


def extract_data_set(
    extractor: CNNDescriptors | None,
    dataset: ImageFolder,
    *,
    on_error: str = "raise",
    is_fitted: bool = False,
    n_features: int | None = None,
    workers: Workers | None = None,
) -> tuple[Descriptors | DescriptorBlocks, ImageFolder, list[dict[str, str]], list[dict[str, str]]]:
    """Extract the images of a data set, or open its feature files.

    Parameters
    ----------
    extractor : CNNDescriptors or None
        It is fitted on :func:`calibration_images`. None: the rows of `dataset` are feature files.
    dataset : ImageFolder
    on_error : {"raise", "skip"}, default="raise"
        What to do with a feature file that cannot be opened. For images, the extractor says it.
    is_fitted : bool, default=False
        Whether the extractor is fitted already, such as that of a trained model.
    n_features : int or None, default=None
        Width of the feature files that a trained model takes. None: any width.
    workers : Workers or None, default=None
        Descriptors in a store or in feature files stay there, and get the runner. None: no runner.

    Returns
    -------
    descriptors : Descriptors or DescriptorBlocks
        Descriptors of the images that were not skipped. In memory if they are small and have no runner.
    dataset : ImageFolder
        The data set of these images.
    skipped, damaged : list of dict
        image and reason, of images that were skipped, and that were used although they are damaged.

    Raises
    ------
    InputError
        If an image may not be skipped, or none is left.
    """
    if extractor is None:
        runner = None if workers is None else workers.runner
        return *open_data_set(dataset, on_error=on_error, n_features=n_features, runner=runner), []
    fitted = extractor if is_fitted else extractor.fit(calibration_images(dataset))
    counted: tuple[str, ...] = ()
    if workers is not None and workers.extract is not None:
        workers.extract(fitted, dataset.paths)
        counted = OUTCOMES
    with counting(leave_out=counted):
        descriptors, report = fitted.transform_with_report(dataset.paths)
    skipped = [{"image": str(dataset.paths[i]), "reason": reason} for i, reason in report.skipped]
    damaged = [{"image": str(dataset.paths[i]), "reason": reason} for i, reason in report.damaged]
    log_damage(report, len(dataset.paths))
    if skipped:
        bad = {i for i, _ in report.skipped}
        kept = np.array([i for i in range(len(dataset.paths)) if i not in bad], dtype=np.intp)
        if len(kept) == 0:
            raise InputError(
                f"none of the {len(dataset.paths)} images could be read; the first: {skipped[0]['reason']}"
            )
        descriptors, dataset = descriptors.take(kept), dataset.take(kept)
    if isinstance(descriptors, DescriptorBlocks) and workers is not None:
        descriptors = descriptors.on(workers.runner)
    elif isinstance(descriptors, DescriptorBlocks) and descriptors.nbytes <= _IN_MEMORY:
        # Memory is only faster: without enough of it, the descriptors stay in the store.
        with suppress(MemoryError):
            descriptors = descriptors.load()
    return descriptors, dataset, skipped, damaged


def calibration_images(dataset: ImageFolder) -> list[Path]:
    """Return the images that the ranges of int8 are measured on: training images, sorted by path.

    Parameters
    ----------
    dataset : ImageFolder
        If it has no parts, all images are used.

    Returns
    -------
    list of Path
    """
    splits = dataset.splits
    wanted = range(len(dataset.paths)) if splits is None else np.flatnonzero(splits == "train").tolist()
    return sorted((dataset.paths[i] for i in wanted), key=str)
