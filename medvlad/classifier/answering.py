"""Methods of a fitted image classifier: predict, probabilities, answers and evidence maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from medvlad._util.validate import InputError
from medvlad.classifier.bags import as_bags, check_several
from medvlad.classifier.explained_image import ExplainedImage, check_explanation, explain_images
from medvlad.classifier.parameters import has_probabilities
from medvlad.classifier.steps import ClassifierSteps
from medvlad.decisions.answers import answers_of, check_answers
from medvlad.decisions.novelty import mean_descriptors
from medvlad.decisions.target_answers import predictions_of
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.images.prefetch import as_sequence
from medvlad.models.heads import task_of_head
from medvlad.svm.decision import decision_columns

__all__ = ["ClassifierAnswers"]


class ClassifierAnswers(ClassifierSteps):
    """The methods of an image classifier that need it to be fitted.

    Attributes
    ----------
    pipeline_ : sklearn.pipeline.Pipeline
        See :class:`medvlad.ImageClassifier`.
    """

    pipeline_: Pipeline

    def decision_function(self, images: Any) -> NDArray[np.float64]:
        """Return decision values: (n,) for two classes, otherwise (n, n_classes)."""
        descriptors = self._described(images)
        values: NDArray[np.float64] = self._after_network().decision_function(descriptors)
        return values

    def predict(self, images: Any) -> NDArray[Any]:
        """Return the class of each image, as in `y`. An unreadable image is an InputError."""
        descriptors = self._described(images)
        labels: NDArray[Any] = self._after_network().predict(descriptors)
        return labels

    @available_if(has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, images: Any) -> NDArray[np.float64]:
        """Return calibrated probabilities (n, n_classes). Rows add up to 1."""
        descriptors = self._described(images)
        probability: NDArray[np.float64] = self._after_network().predict_proba(descriptors)
        return probability

    def answers(
        self, images: Any, *, coverage: float | None = None, abstain: bool = False
    ) -> list[dict[str, Any]]:
        """Return predictions as plain values, as `medvlad predict --json` prints them.

        See :func:`medvlad.decisions.answers_of` for the parameters and the result with classes, and
        `medvlad.decisions.target_answers.predictions_of` for the result with several labels or numbers, for
        which `coverage` and `abstain` are errors.
        """
        check_is_fitted(self)
        after = self._after_network()
        head = after[-1]
        of_classes = task_of_head(head) == "classes"
        if not of_classes and (coverage is not None or abstain):
            raise InputError(
                "coverage and abstain are for classes, and this classifier predicts labels or numbers: "
                "leave them out"
            )
        check_answers(head, coverage=coverage, abstain=abstain)
        descriptors = self._described(images)
        if not of_classes:
            vectors = after[:-1].transform(descriptors)
            return predictions_of(head, vectors) or []
        decision = decision_columns(after.decision_function(descriptors))
        means = mean_descriptors(descriptors)
        return answers_of(head, decision, means, coverage=coverage, abstain=abstain)

    def explain(self, images: Any, label: Any = None) -> list[ExplainedImage]:
        """Return the evidence map of each image.

        Parameters
        ----------
        images : sequence of paths and arrays
        label : class label or None, default=None
            Class that the evidence is for. None: the predicted class of each image.

        Returns
        -------
        list of ExplainedImage
            The pictures of one call share a colour scale.

        Raises
        ------
        InputError
            If the classifier was fitted on descriptors, it predicts several labels or numbers, there is no
            such class, or `images` are descriptors.
        """
        check_is_fitted(self)
        check_several(images)
        check_explanation(self.pipeline_, images, label)
        images = as_sequence(images)
        return explain_images(self.pipeline_, images, self._described(images), label)

    def _described(self, images: Any) -> Descriptors | DescriptorBlocks:
        """Return the descriptors of images that are to be predicted."""
        check_is_fitted(self)
        bags = as_bags(images)
        of_images = isinstance(self.pipeline_[0], CNNDescriptors)
        if bags is not None and of_images and not isinstance(images, Descriptors | DescriptorBlocks):
            raise InputError(
                "this classifier was fitted on images, and these are bags of descriptors: give images, or "
                "the Descriptors that its own network, pipeline_[0], made of them"
            )
        if bags is not None:
            return bags
        if not of_images:
            raise InputError("this classifier was fitted on descriptors, so it needs descriptors, not images")
        network, own = self.pipeline_[0], self.make_network()
        kept = {"store": own.store, "output": own.output, "progress": self.progress}
        found: Descriptors | DescriptorBlocks
        found = network.build().with_parameters(on_error="raise", **kept).transform(images)
        return found

    def _after_network(self) -> Pipeline:
        """Return the steps from descriptors to classes."""
        pipeline = self.pipeline_
        return pipeline[1:] if isinstance(pipeline[0], CNNDescriptors) else pipeline
