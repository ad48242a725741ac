"""Parameters of the steps, as plain values for results.json."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator

from medvlad.encoders.recipe import encoder_steps

__all__ = ["step_parameters"]


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
