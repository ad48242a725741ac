"""One estimator from images to classes.

It runs these steps::

    images --CNNDescriptors--> descriptors --encoder--> vectors --WideLinearSVC--> classes

On request, it chooses the encoding and C by cross-validation inside the training images. The commands `train`
and `evaluate` use the same steps through :class:`medvlad.experiment.Experiment`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from medvlad.classifier.answering import ClassifierAnswers
from medvlad.classifier.bags import as_bags
from medvlad.classifier.fitting import describe_training_images, fit_steps, fit_targets, label_run
from medvlad.classifier.parameters import (
    checked_columns,
    for_card,
    parameters_of,
)
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.choice import Choice
from medvlad.evaluation.targets import TargetRun
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.images.prefetch import as_sequence
from medvlad.models.heads import names_of_head
from medvlad.models.model_file import load_model, model_card, save_model
from medvlad.svm.invariance import Nuisance

__all__ = ["ImageClassifier"]


class ImageClassifier(ClassifierMixin, ClassifierAnswers):
    """Classify images with a frozen network, an encoding and an exact linear SVM.

    Parameters
    ----------
    model : str, object or None, default=None
        The network, see :class:`medvlad.CNNDescriptors`. None: that of the preset with its layer and weights,
        or "vgg19".
    layer, weights, preprocess, prefix_tokens, side
        See :class:`medvlad.CNNDescriptors`. weights=None: those of the preset's network, or "imagenet".
    encode : str or None, default=None
        Encoding: "avg", "max", "gem", "vlad64", "fisher64", or several joined by +, whose vectors are
        concatenated. Of several separated by commas, such as "avg,vlad64", the first one is used
        that is within one standard error of the best inside the training images, see
        :mod:`medvlad.evaluation.choice`. None: that of the preset if one is given, or "vlad64".
    preset : {"paper", "best", "fast"} or None, default=None
        Values of the parameters that are None here, see ``PRESETS`` in :mod:`medvlad.encoders.recipe`. None:
        "paper".
    scales : int or sequence of int, or None, default=None
        See :class:`medvlad.CNNDescriptors`. None: that of the preset, or 0.
    recipe : Recipe or None, default=None
        Further settings of the encoding, see :class:`medvlad.encoders.recipe.Recipe`. None: those of the
        preset.
    C : float, "cv" or None, default=None
        Penalty of the SVM. "cv": chosen by cross-validation inside the training images. None: that of the
        preset, or 1.
    class_weight : dict, "balanced", "none" or None, default=None
        See :class:`medvlad.WideLinearSVC`. None: that of the preset, or "none".
    calibration : {"auto", "platt", "isotonic", "none"} or None, default=None
        How probabilities are learned in folds inside the training images, see
        :mod:`medvlad.decisions.calibration`. "none" is faster, and is enough for a search. None: that of the
        preset, or "auto". Several labels always get probabilities by "platt".
    threshold : str or None, default=None
        Operating point of two classes, such as "sensitivity=0.95", found in the same folds. None: decision
        values above 0.
    positive : str or None, default=None
        Of two classes, the one whose detection rate is the sensitivity, as text. None: the second.
    folds : int, default=5
        Number of folds inside the training images.
    augment : {"none", "shift"}, default="none"
        "shift": also train on a shifted copy of each image, and pay less attention to how images were taken,
        see :mod:`medvlad.svm.invariance`. Only for images with one class each, not for descriptors, not
        with `memory`, and for vectors of at most 8,192 numbers.
    store : path or None, default=None
        Folder that keeps descriptors. None: clones, such as those of a search, share a temporary folder, so
        the network runs once for each image. It is removed with the last clone.
    mirror, resize, dtype, engine, batch_size, on_error, on_damage, colour_profile, decode, progress
        See :class:`medvlad.CNNDescriptors`. ``on_error="skip"`` leaves unreadable images out of the training.
        Predicting an unreadable image is always an error.
    backend, n_threads
        See :class:`medvlad.VLAD`.
    memory : int, str or None, default=None
        Limit in bytes, or a text such as "2 GiB". If the encoded images are larger, a recipe with `reduce`
        finds its components by blocks, and vectors that are still larger are written to a file in the folder
        for temporary files. Vectors of several encoders side by side stay in memory. The limit of the SVM is
        the same. Only for one class an image. None: no limit.
    random_state : int, default=0
        Seed of k-means and of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted.
    pipeline_ : sklearn.pipeline.Pipeline
        The fitted steps. The first is the network, unless the classifier was fitted on descriptors.
    choice_ : Choice
        The encoding and C, see :class:`medvlad.evaluation.choice.Choice`.
    skipped_ : list of (int, str)
        Index and reason of each training image that was left out.

    Examples
    --------
    >>> data = medvlad.load_image_folder("chest_xray", split="train")  # doctest: +SKIP
    >>> classifier = medvlad.ImageClassifier("vgg16", weights="bundled")  # doctest: +SKIP
    >>> classifier.fit(data.paths, data.y, data.groups).predict(["new.png"])  # doctest: +SKIP
    array(['PNEUMONIA'], dtype='<U9')
    """

    classes_: NDArray[Any]
    pipeline_: Pipeline
    choice_: Choice
    skipped_: list[tuple[int, str]]

    def fit(self, images: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Extract the images and fit the classifier.

        Parameters
        ----------
        images : sequence of paths and arrays, Descriptors or DescriptorBlocks, n
            Image files, pixels, feature files (see :mod:`medvlad.bags`), or descriptors: an array (n_i, D) of
            floating-point numbers is a bag.
        y : array-like of shape (n,), or (n, n_labels)
            Class of each image. For several labels: 1, 0, or NaN if unknown. An image may have any number of
            labels. The columns of a DataFrame name the labels.
        groups : array-like of shape (n,), or None, default=None
            Patient of each image. Images of a patient stay in one fold. None: each image counts as a patient
            of its own.

        Returns
        -------
        ImageClassifier
            This classifier.

        Raises
        ------
        InputError
            If a parameter is wrong, an image cannot be read and ``on_error="raise"``, `y` or `groups` have
            another length, or a class has no usable image.
        """
        bags = as_bags(images)
        if bags is not None:
            return self.fit_descriptors(bags, y, groups)
        used = describe_training_images(self, as_sequence(images), y, groups)
        self.fit_descriptors(
            used.descriptors, used.labels, used.groups, network=used.network, nuisance=used.nuisance
        )
        self.skipped_ = used.skipped
        return self

    def fit_descriptors(
        self,
        descriptors: Descriptors | DescriptorBlocks,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        network: CNNDescriptors | None = None,
        keep: Callable[[Any], None] | None = None,
        nuisance: Nuisance | None = None,
    ) -> Self:
        """Fit the steps after the network.

        Parameters
        ----------
        descriptors : Descriptors or DescriptorBlocks, n
        y, groups : array-like of shape (n,)
            As in :meth:`fit`.
        network : CNNDescriptors or None
            The network that made the descriptors. It becomes the first step, so that images can be predicted.
            None: descriptors are predicted.
        keep : callable or None, default=None
            Called with the encoded training images (n, D). None: they are dropped.
        nuisance : Nuisance or None, default=None
            Which of the images are shifted copies, see :mod:`medvlad.svm.invariance`. None: there are no
            copies.

        Returns
        -------
        ImageClassifier
            This classifier.

        Raises
        ------
        InputError
            As :meth:`fit`.
        """
        labels, patients = checked_columns(len(descriptors), y, groups)
        if labels.ndim == 2:
            return self.fit_targets(label_run(self, labels, patients, y), descriptors, network=network)
        self.pipeline_, self.choice_ = fit_steps(self, descriptors, labels, patients, network, keep, nuisance)
        self.classes_, self.skipped_ = self.pipeline_.classes_, []
        return self

    def fit_targets(
        self,
        run: TargetRun,
        descriptors: Descriptors | DescriptorBlocks,
        *,
        network: CNNDescriptors | None = None,
    ) -> Self:
        """Fit the steps after the network on several labels or numbers, see :class:`TargetRun`."""
        self.pipeline_, self.choice_ = fit_targets(self, run, descriptors, network)
        self.classes_, self.skipped_ = names_of_head(self.pipeline_[-1]), []
        return self

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        card: Mapping[str, Any] | None = None,
        anonymise: bool = False,
    ) -> None:
        """Save the fitted steps to one file, see :func:`medvlad.save_model`. Opening it runs no code."""
        check_is_fitted(self)
        penalty = None if np.isnan(self.choice_.penalty) else self.choice_.penalty  # numbers have no C
        notes = {"encode": self.choice_.encoding, "C": penalty, "parameters": for_card(self)}
        save_model(self.pipeline_, path, card=notes | dict(card or {}), anonymise=anonymise)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, weights: str | None = None) -> Self:
        """Load a classifier that :meth:`save` or the command `train` wrote.

        Parameters
        ----------
        path : path-like
        weights : str or None
            File with the weights of the network. None: the file that was used in training.

        Raises
        ------
        InputError
            See :func:`medvlad.load_model`.
        """
        pipeline, card = load_model(path, weights=weights), model_card(path)["card"]
        classifier = cls(**parameters_of(pipeline, card, cls._get_param_names()))
        classifier.pipeline_, classifier.classes_, classifier.skipped_ = (
            pipeline,
            names_of_head(pipeline[-1]),
            [],
        )
        classifier.choice_ = Choice(
            str(card.get("encode", "")), float(getattr(pipeline[-1], "C", np.nan)), {}, 0
        )
        return classifier

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "pipeline_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _sk_visual_block_(self) -> Any:
        """Return the steps, which notebooks show."""
        if hasattr(self, "pipeline_"):
            return self.pipeline_._sk_visual_block_()
        return super()._sk_visual_block_()
