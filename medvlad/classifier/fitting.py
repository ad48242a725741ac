"""Fit the steps after the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from medvlad._util.validate import InputError
from medvlad.classifier.parameters import settle
from medvlad.classifier.steps import PENALTIES, ClassifierSteps
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.recipe import encoder_steps
from medvlad.evaluation.choice import Choice, choose_encoding
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.store.stored_descriptors import StoredDescriptors

__all__ = ["fit_steps"]


def fit_steps(
    steps: ClassifierSteps,
    descriptors: Descriptors | StoredDescriptors,
    labels: NDArray[Any],
    groups: NDArray[Any] | None,
    network: CNNDescriptors | None,
) -> tuple[Pipeline, Choice]:
    """Choose the encoding and C if there is a choice, and fit the encoder and the SVM on all images.

    Parameters
    ----------
    steps : ClassifierSteps
        The parameters.
    descriptors : Descriptors or StoredDescriptors, n
    labels : ndarray of shape (n,)
        Class of each image.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: not known.
    network : CNNDescriptors or None
        First step of the pipeline. It gets no store. None: the pipeline takes descriptors.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
    choice : Choice

    Raises
    ------
    InputError
        If there is a single class, or a class has too few images (patients) for a choice.
    """
    settled, svm, encoders = settle(steps), steps.make_svm(), steps.make_encoders(network)
    classes, encoded_labels = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError("y holds a single class, and a classifier needs two: add images of another")
    choice = choose_encoding(
        *(descriptors, encoded_labels.astype(np.int64), groups, encoders, svm),
        penalties=PENALTIES if settled.C is None else None,
        folds=steps.folds,
        random_state=steps.random_state,
    )
    svm.set_params(C=choice.penalty)
    encoder = encoders[choice.encoding]
    svm.fit(encoder.fit_transform(descriptors), labels)
    first = [] if network is None else [("features", network.with_parameters(output="host", store=None))]
    return Pipeline([*first, *encoder_steps(encoder), ("classify", svm)]), choice
