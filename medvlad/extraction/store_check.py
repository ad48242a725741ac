"""Check the numbers in a descriptor store: extract some images again and compare."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.choices import EngineName
from medvlad._util.validate import InputError, check_positive_int
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.damaged_images import damaged_key
from medvlad.images.hashed_file import image_key
from medvlad.store.store import DescriptorStore, Section

__all__ = ["TOLERANCE", "is_of_keras", "recompute", "recompute_store"]

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 5e-2}
"""Largest allowed difference, relative to the largest number of the image, by the dtype of the network.

float32: engines and batch sizes change numbers by at most 1e-4. bfloat16: only some processors round factors
to 8 bits, which changes numbers by about 1 %. int8: each layer rounds activations to 256 steps, and a step
that another processor rounds the other way changes all later layers.
"""


def is_of_keras(section: Section) -> bool:
    """Return whether the descriptors of a section are from a network of Keras."""
    model = str(section.settings.get("model"))
    return model != "onnx" and not model.startswith(("timm:", "torch:"))


def recompute(
    section: Section,
    images: Sequence[str | os.PathLike[str]],
    n: int,
    *,
    weights: str | os.PathLike[str] = "imagenet",
    engine: EngineName = "auto",
    n_threads: int | None = None,
) -> tuple[int, list[str]]:
    """Extract images again with the settings of a section, and compare the results with the section.

    Parameters
    ----------
    section : Section
        Section of a :class:`medvlad.store.store.DescriptorStore`.
    images : sequence of paths
        Images that the section does not hold are left out.
    n : int
        Maximum number of images to extract. They are spread evenly over `images`.
    weights, engine, n_threads
        Parameters of :class:`medvlad.extraction.cnn_descriptors.CNNDescriptors`.

    Returns
    -------
    n_compared : int
        Number of images compared.
    differences : list of str
        One sentence for each image with wrong descriptors.

    Raises
    ------
    InputError
        If the section was made with other weights or by another version of medvlad, or an image cannot be
        read.
    """
    check_positive_int(n, "n")
    digests: dict[Path, str] = {}
    held = [image for image in images if image_key(image, digests) in section]
    chosen = [held[i] for i in np.unique(np.linspace(0, len(held) - 1, min(n, len(held))).astype(int))]
    if not chosen:
        return 0, []
    differences = []
    with tempfile.TemporaryDirectory(prefix="medvlad-") as folder:
        features = _features_of(section.settings, weights, engine, n_threads, folder)
        fresh = features.store_section()
        if fresh.path.name != section.path.name:
            raise InputError(
                f"the section {section.path} was made with other weights than {str(weights)!r}, or by "
                "another version of medvlad: give the weights that it was made with"
            )
        features.extract(chosen)
        fresh.refresh()
        digests.clear()
        for image in chosen:
            key = image_key(image, digests)
            expected, stored = fresh.get(key), section.get(key)
            if stored is not None and damaged_key(key) in fresh:
                differences.append(
                    f"{image} has damaged JPEG data, and {section.path} holds its descriptors as those of a "
                    "sound image: remove that folder and extract again"
                )
                continue
            # None: the file has changed meanwhile, or its entry is damaged, which verify reports.
            if expected is not None and stored is not None:
                error = _difference(stored, expected)
                if error > TOLERANCE[features.dtype]:
                    differences.append(
                        f"{image}: its descriptors in {section.path} differ from those extracted now by "
                        f"{error:.2g} of the largest number, and at most {TOLERANCE[features.dtype]:g} is "
                        "allowed. Remove that folder and extract again"
                    )
    return len(chosen), differences


def _features_of(
    settings: dict[str, Any],
    weights: str | os.PathLike[str],
    engine: EngineName,
    n_threads: int | None,
    store: str,
) -> CNNDescriptors:
    """Return an estimator with the settings of a section and a built network."""
    model = str(settings.get("model"))
    if model == "onnx" or model.startswith("torch:"):
        what = "an ONNX file" if model == "onnx" else f"the object {model}"
        raise InputError(
            f"the section was made with {what}, which it does not name: extract some images again with "
            "CNNDescriptors and compare"
        )
    is_timm = model.startswith("timm:")
    try:
        features = CNNDescriptors(
            settings["model"],
            settings["layer"],
            scales=settings["scales"],
            mirror=settings.get("mirror", False),
            resize=settings["resize"],
            dtype=settings["dtype"],
            colour_profile=settings.get("colour_profile", "ignore"),
            decode=settings.get("decode", "full"),
            weights=weights,
            engine=engine,
            n_threads=n_threads,
            store=store,
            progress=False,
            preprocess=settings["preprocess"] if is_timm else None,
            prefix_tokens=settings["prefix_tokens"] if is_timm else None,
            side=settings["sides"][0] if is_timm and len(settings["sides"]) == 1 else None,
        )
    except KeyError as error:
        raise InputError(f"the section has no setting {error}: CNNDescriptors did not make it") from error
    features.build()
    if "ranges" in settings:
        features.ranges_ = settings["ranges"]
    return features


def _difference(stored: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference, relative to the largest expected number. Infinity if shapes differ."""
    if stored.shape != expected.shape:
        return float("inf")
    largest = float(np.abs(expected).max(initial=0)) or 1.0
    return float(np.abs(stored.astype(np.float64) - expected).max(initial=0)) / largest


def recompute_store(
    store: str | os.PathLike[str], images: Sequence[str | os.PathLike[str]], n: int, **options: Any
) -> tuple[int, list[str], list[str]]:
    """Extract images of every section of a store again, and compare.

    Parameters
    ----------
    store : path
        Folder of the store.
    images, n
        Parameters of :func:`recompute`. At most `n` images of each section are extracted.
    **options
        Parameters `weights`, `engine` and `n_threads` of :func:`recompute`.

    Returns
    -------
    n_compared : int
        Number of images compared, in all sections.
    differences : list of str
        One sentence for each image with wrong descriptors.
    not_checked : list of str
        One sentence for each section that was not checked.

    Raises
    ------
    InputError
        If no image was compared.
    """
    n_compared, differences, not_checked = 0, list[str](), list[str]()
    for section in DescriptorStore(store).sections():
        try:
            compared, found = recompute(section, images, n, **options)
        except InputError as error:
            not_checked.append(f"{section.path} was not checked: {error}")
            continue
        n_compared += compared
        differences += found
        if not compared:
            not_checked.append(f"{section.path} was not checked: it holds none of these images")
    if not n_compared:
        raise InputError("; ".join(not_checked) or f"the store {store} holds no images that could be checked")
    return n_compared, differences, not_checked
