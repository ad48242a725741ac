"""Evidence maps of single images: which parts of an image led to the decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.pipeline import Pipeline

from medvlad._util.validate import InputError
from medvlad.decisions import CalibratedSVC
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.explain.maps import evidence_map, evidence_picture, largest_evidence
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.models.heads import task_of_head
from medvlad.svm.decision import decision_columns

__all__ = ["ExplainedImage", "check_explanation", "explain_images"]


@dataclass(frozen=True)
class ExplainedImage:
    """Evidence for the class of one image.

    Attributes
    ----------
    label : class label
        The class that the evidence is for.
    decision : float
        Decision value of that class.
    evidence : ndarray of float64, shape (H, W)
        Evidence of each cell for the class. Negative numbers are evidence against it. If the encoder has no
        signed power, the sum of the map and the bias of the SVM is `decision`.
    picture : PIL.Image.Image
        The image, the map beside it, and a colour bar.
    """

    label: Any
    decision: float
    evidence: NDArray[np.float64]
    picture: Image.Image


def check_explanation(pipeline: Pipeline, images: Any, label: Any) -> None:
    """Check the parameters of :func:`explain_images` before any image is read.

    Raises
    ------
    InputError
        If the pipeline has no network or predicts several labels or numbers, `images` are descriptors, or
        there is no such class.
    """
    if not isinstance(pipeline[0], CNNDescriptors):
        raise InputError(
            "this classifier was fitted on descriptors, and these maps are for images: for feature files "
            "with coordinates use medvlad.predict.predict_images(classifier.pipeline_, files, "
            "explain=Path(FOLDER)), and for Descriptors use medvlad.explain.evidence(descriptors, "
            "*classifier.pipeline_)"
        )
    if task_of_head(pipeline[-1]) != "classes":
        raise InputError(
            "the evidence is for classes, and this classifier predicts labels or numbers: use predict"
        )
    if isinstance(images, Descriptors | DescriptorBlocks):
        raise InputError(
            "these are descriptors, and the evidence is shown beside the images: give the images"
        )
    if label is not None and label not in pipeline.classes_:
        names = ", ".join(map(str, pipeline.classes_))
        raise InputError(f"there is no class {label!r}: use one of {names}")


def explain_images(
    pipeline: Pipeline, images: Any, descriptors: Descriptors | DescriptorBlocks, label: Any
) -> list[ExplainedImage]:
    """Do the work of :meth:`medvlad.ImageClassifier.explain`.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted, and accepted by :func:`check_explanation`.
    images : sequence of paths and arrays, n
    descriptors : Descriptors or DescriptorBlocks, n
        Descriptors of these images.
    label : class label or None
        Class that the evidence is for. None: the predicted class of each image.

    Returns
    -------
    list of ExplainedImage
    """
    network, classes = pipeline[0], pipeline.classes_
    decision = decision_columns(pipeline[1:].decision_function(descriptors))
    head = pipeline[-1]
    columns = head.decide(decision) if isinstance(head, CalibratedSVC) else decision.argmax(axis=1)
    if label is not None:
        columns[:] = int(np.flatnonzero(classes == label)[0])
    steps = [step for _, step in pipeline.steps[1:]]
    maps = []
    for i, column in enumerate(columns):
        own = descriptors[i : i + 1]
        in_memory = own.load() if isinstance(own, DescriptorBlocks) else own
        maps.append(evidence_map(network, steps, in_memory, int(column)))
    largest = largest_evidence(maps)
    return [
        ExplainedImage(classes[column], float(values[column]), one, evidence_picture(image, one, largest))
        for image, column, values, one in zip(images, columns, decision, maps, strict=True)
    ]
