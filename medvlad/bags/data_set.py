"""Open the feature files of a data set, and list those that are skipped."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from medvlad._util.object_storage import StorageFailure
from medvlad._util.passes import Runner
from medvlad._util.validate import InputError
from medvlad.bags.bag_files import BagFiles
from medvlad.datasets.folders import ImageFolder
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors

__all__ = ["FEATURE_FILES", "TRAINING_FILES", "feature_settings", "open_data_set"]

#: Name of the network in results of feature files.
FEATURE_FILES = "feature files"
#: What messages call the files that a model was trained on.
TRAINING_FILES = "those that the model was trained on"
#: Settings of an experiment that feature files do not have.
_OF_NETWORK = (
    *("layer", "weights", "mirror", "resize", "batch_size", "dtype", "engine", "colour_profile", "on_damage"),
    *("decode", "input_sides", "weights_fingerprint", "ranges"),
)
_IN_MEMORY = 1 << 30  # bytes; descriptors are loaded into memory if they take no more than this


def open_data_set(
    dataset: ImageFolder,
    *,
    on_error: str = "raise",
    n_features: int | None = None,
    runner: Runner | None = None,
) -> tuple[Descriptors | DescriptorBlocks, ImageFolder, list[dict[str, str]]]:
    """Open the feature files of a data set.

    Parameters
    ----------
    dataset : ImageFolder
        Its rows are feature files, or bags of them.
    on_error : {"raise", "skip"}, default="raise"
        What to do with a bag whose file cannot be opened or has no descriptors. NaN is found later, when the
        descriptors are read, and is always an error.
    n_features : int or None, default=None
        Width of the descriptors that a model was trained on. None: any width.
    runner : Runner or None, default=None
        Descriptors stay in their files, and `runner` works on them. None: no runner.

    Returns
    -------
    descriptors : Descriptors or BagFiles
        Descriptors of the bags that were not skipped. In memory if they take at most 1 GiB and have no
        runner.
    dataset : ImageFolder
        The data set of these bags.
    skipped : list of dict
        image and reason.

    Raises
    ------
    InputError
        If a file cannot be read or has another width than `n_features` and may not be skipped, widths differ,
        or no bag is left.
    """
    skipped: dict[int, str] = {}
    if on_error == "skip":
        for i in range(len(dataset)):
            try:
                opened = BagFiles([dataset.files_of(i)])
                if n_features is not None:
                    opened.check_width(n_features, TRAINING_FILES)
            except StorageFailure:
                raise
            except InputError as error:
                skipped[i] = str(error)
        if len(skipped) == len(dataset):
            raise InputError(
                f"none of the {len(dataset)} feature files could be read; the first: {skipped[0]}"
            )
    reasons = [{"image": str(dataset.paths[i]), "reason": reason} for i, reason in skipped.items()]
    if skipped:
        dataset = dataset.take(np.array([i for i in range(len(dataset)) if i not in skipped], np.intp))
    bags = BagFiles([dataset.files_of(i) for i in range(len(dataset))])
    if n_features is not None:
        bags.check_width(n_features, TRAINING_FILES)
    if runner is not None:
        return bags.on(runner), dataset, reasons
    if bags.nbytes <= _IN_MEMORY:
        # Memory is only faster: without enough of it, the descriptors stay in their files.
        with suppress(MemoryError):
            return bags.load(), dataset, reasons
    return bags, dataset, reasons


def feature_settings(n_features: int) -> dict[str, Any]:
    """Return the settings for results.json of feature files, which have no network."""
    return dict.fromkeys(_OF_NETWORK) | {"model": FEATURE_FILES, "scales": [], "n_features": n_features}
