"""Answers of the check-lists about the input: images and their network, or feature files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlad.bags.data_set import FEATURE_FILES

__all__ = ["frozen_network", "predictors", "preparation", "weights"]


def _of_feature_files(r: Mapping[str, Any]) -> bool:
    """Return whether a run read feature files. Their network and images are unknown."""
    return bool(r["settings"]["model"] == FEATURE_FILES)


def preparation(r: Mapping[str, Any]) -> str:
    """Return how the images were prepared."""
    s, left_out = r["settings"], len(r["skipped"])
    if _of_feature_files(r):
        return (
            "Feature files from elsewhere. Add how the images were prepared for them. "
            f"{left_out} unreadable files were left out."
        )
    sides = " and ".join(map(str, s.get("input_sides") or [])) or "the network's input"
    return (
        f"Images resized to {sides} pixels ({s.get('resize', 'bilinear')} filter), colour profiles: "
        f"{s.get('colour_profile', 'ignore')}, decoding of JPEG: {s.get('decode', 'full')}. {left_out} "
        "unreadable images were left out, "
        f"{len(r.get('damaged', []))} damaged ones were used."
    )


def predictors(r: Mapping[str, Any]) -> str:
    """Return the predictors: the input of the classifier."""
    s = r["settings"]
    if _of_feature_files(r):
        return (
            f"Descriptors of {s['n_features']} numbers from feature files. Add the network and the layer "
            "that made them. No clinical data."
        )
    return (
        f"Pixels only, as descriptors of {s['model']}, layer {s.get('layer', 'unknown')}. No clinical data."
    )


def frozen_network(r: Mapping[str, Any]) -> str:
    """Return the first part of the model."""
    return "Feature files" if _of_feature_files(r) else f"Frozen network {r['settings']['model']}"


def weights(r: Mapping[str, Any]) -> str:
    """Return the initial parameters."""
    s = r["settings"]
    if _of_feature_files(r):
        return "Feature files from elsewhere. Add the network that made them, and its weights."
    return f"Pretrained and frozen: {s['model']}, weights {Path(str(s['weights'])).name}."
