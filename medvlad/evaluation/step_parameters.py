"""Settings of a run and parameters of its steps, as plain values for results.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sklearn.base import BaseEstimator

from medvlad.backends import available_backends
from medvlad.encoders.recipe import encoder_steps
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.weights import weights_source

__all__ = ["run_settings", "step_parameters"]


def run_settings(experiment: Any, extractor: CNNDescriptors) -> dict[str, Any]:
    """Return the settings of a run, with facts about the network that was used.

    Parameters
    ----------
    experiment : Experiment
    extractor : CNNDescriptors
        Built.
    """
    settings: dict[str, Any] = asdict(experiment) | {"scales": list(experiment.scales)}
    settings["C"] = "cv" if experiment.C is None else experiment.C
    del settings["store"]  # it does not change any result
    settings["input_sides"] = list(extractor.input_sides_)
    settings["weights"] = weights_source(experiment.weights)
    settings["weights_fingerprint"] = extractor.weights_fingerprint_
    settings["engine"] = extractor.engine_
    settings["ranges"] = extractor.ranges_ if experiment.dtype == "int8" else None
    settings["available_backends"] = available_backends()
    return settings


def step_parameters(encoder: Any, classifier: Any, *, chosen_c: bool) -> dict[str, Any]:
    """Return the parameters of each step.

    Parameters
    ----------
    encoder, classifier : estimator
    chosen_c : bool
        Whether C is chosen by cross-validation. It is "cv" then.

    Returns
    -------
    dict
        By name of the step; "classify" is the classifier.
    """
    parameters = {step: one.get_params(deep=False) for step, one in encoder_steps(encoder)}
    classify = classifier.get_params()
    if chosen_c and "C" in classify:
        classify["C"] = "cv"
    plain: dict[str, Any] = _plain(parameters | {"classify": classify})
    return plain


def _plain(value: Any) -> Any:
    """Return `value` with estimators replaced by dicts of their parameters, for JSON."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, BaseEstimator):
        return {type(value).__name__: _plain(value.get_params(deep=False))}
    return value
