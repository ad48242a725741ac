"""Extract the images of a data set, and list those that are skipped or damaged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder
from medvlad.descriptors.ragged import Descriptors
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.image_transformer import log_damage
from medvlad.store.stored_descriptors import StoredDescriptors

__all__ = ["calibration_images", "extract_data_set"]

_IN_MEMORY = 1 << 30  # bytes; descriptors from a store are loaded into memory if they take no more than this


def extract_data_set(
    extractor: CNNDescriptors, dataset: ImageFolder, calibration: Sequence[Path]
) -> tuple[Descriptors | StoredDescriptors, ImageFolder, list[dict[str, str]], list[dict[str, str]]]:
    """Extract the images of a data set.

    Parameters
    ----------
    extractor : CNNDescriptors
    dataset : ImageFolder
    calibration : sequence of Path
        Images for :meth:`medvlad.CNNDescriptors.fit`.

    Returns
    -------
    descriptors : Descriptors or StoredDescriptors
        Descriptors of the images that were not skipped. In memory if they are small.
    dataset : ImageFolder
        The data set of these images.
    skipped, damaged : list of dict
        image and reason, of images that were skipped, and that were used although they are damaged.

    Raises
    ------
    InputError
        If an image may not be skipped, or none is left.
    """
    descriptors, report = extractor.fit(calibration).transform_with_report(dataset.paths)
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
    if isinstance(descriptors, StoredDescriptors) and descriptors.nbytes <= _IN_MEMORY:
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
