"""What results.json says about an encoding and about the settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from medvlad.backends import available_backends
from medvlad.bags.data_set import feature_settings
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.pooling import holds_feature_files
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.cross_validation import HeldOut
from medvlad.evaluation.held_out_metrics import held_out_metrics
from medvlad.evaluation.parts import has_two_class_test
from medvlad.evaluation.step_parameters import step_parameters
from medvlad.extraction.cnn_descriptors import CNNDescriptors

__all__ = ["described", "result_of", "settings_of"]


def result_of(
    experiment: Any,
    name: str,
    encoder: Any,
    dataset: ImageFolder,
    decided: HeldOut,
    extract_seconds: float,
) -> dict[str, Any]:
    """Return the entry of results.json for one encoding."""
    found = held_out_metrics(
        dataset,
        decided,
        positive=experiment.positive,
        random_state=experiment.seed,
        adapt_threshold=has_two_class_test(dataset) and experiment.adapt_threshold is not False,
        target=experiment.target(),
    )
    found["seconds"] = {"extract": round(extract_seconds, 4)} | found["seconds"]
    return described(experiment, name, encoder, experiment.classifier([name]).make_svm(), dataset) | found


def described(
    experiment: Any, name: str, encoder: Any, classifier: Any, dataset: ImageFolder
) -> dict[str, Any]:
    """Return an encoding and the parameters of its steps for results.json."""
    parameters = step_parameters(encoder, classifier, chosen_c=experiment.C is None)
    scales = [] if holds_feature_files(dataset) else list(experiment.scales)
    return {"encode": name, "scales": scales, "parameters": parameters}


def settings_of(
    experiment: Any, extractor: CNNDescriptors | None, descriptors: Descriptors | DescriptorBlocks
) -> dict[str, Any]:
    """Return the settings for results.json, with facts about the network that was used."""
    settings = asdict(experiment) | {"scales": list(experiment.scales)}
    settings["C"] = "cv" if experiment.C is None else experiment.C
    del settings["store"]  # it does not change any result
    settings["available_backends"] = available_backends()
    if extractor is None:
        return settings | feature_settings(descriptors.n_features)
    settings["input_sides"] = list(extractor.input_sides_)
    settings |= {"layer": extractor.network_.layer, "weights": extractor.network_.source}
    settings |= extractor.network_.input_settings()
    settings["weights_fingerprint"] = extractor.weights_fingerprint_
    settings |= {"engine": extractor.engine_, "dtype": extractor.dtype_}
    settings["ranges"] = extractor.ranges_ if extractor.dtype_ == "int8" else None
    return settings
