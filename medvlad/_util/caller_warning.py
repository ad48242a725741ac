"""Warnings that point at the caller's own line."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings

import sklearn

__all__ = ["warn_caller"]

# Frames of these files lie between the caller and the warning: this package, scikit-learn's wrappers of
# `fit` and `fit_transform`, and contextlib, which runs a context manager used as a decorator.
_SKIPPED = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,  # noqa: PTH100, PTH120
    os.path.dirname(os.path.abspath(sklearn.__file__)) + os.sep,  # noqa: PTH100, PTH120
    os.path.abspath(contextlib.__file__),  # noqa: PTH100
)


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line outside the package that led here.

    A fixed `stacklevel` cannot do this, because the same code is reached by several ways: directly, through
    another estimator, or through a scikit-learn pipeline.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(_SKIPPED):  # noqa: PTH100
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
