"""Ranges of activations that a CNNDescriptors has measured for int8, and what they depend on."""

from __future__ import annotations

from typing import Any

from medvlad._util.validate import InputError
from medvlad.extraction.scales import check_scales

__all__ = ["calibration_key", "ranges_of"]


def calibration_key(features: Any) -> tuple[Any, ...]:
    """Return what the ranges of activations depend on, apart from the images."""
    scales = check_scales(features.scales)
    read = (features.resize, features.colour_profile, features.decode)
    return features.model, features.network_.layer, features.weights_fingerprint_, scales, read


def ranges_of(features: Any) -> dict[str, float] | None:
    """Return the ranges of activations. None unless it computes in int8; empty if there are none yet."""
    if features.dtype_ != "int8":
        return None
    if getattr(features, "_calibrated_for", None) not in (None, calibration_key(features)):
        raise InputError(
            "int8 was calibrated for another network or other scales, resize, colour_profile or decode: "
            "call fit again"
        )
    ranges: dict[str, float] = getattr(features, "ranges_", {})
    return ranges
