"""From parameters to steps: the network, the encoders and the SVM of a classifier, not fitted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from medvlad._util.choices import (
    BackendName,
    ColourProfile,
    Decode,
    Dtype,
    EngineName,
    OnDamage,
    OnError,
    ResizeFilter,
)
from medvlad.classifier.parameters import OF_NETWORK, settle
from medvlad.classifier.shared_folder import SharedFolder
from medvlad.encoders.recipe import Recipe, encoder_steps, vector_width
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.svm.invariance import check_width
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["PENALTIES", "ClassifierSteps"]

#: Values of C from which cross-validation chooses.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class ClassifierSteps(BaseEstimator):
    """Parameters of an image classifier, and the steps that they stand for.

    :class:`medvlad.ImageClassifier` describes the parameters.
    """

    _shared: SharedFolder

    def __init__(
        self,
        model: Any = None,
        *,
        layer: str | None = None,
        weights: str | os.PathLike[str] | None = None,
        encode: str | None = None,
        preset: str | None = None,
        scales: int | Sequence[int] | None = None,
        recipe: Recipe | None = None,
        C: float | str | None = None,
        class_weight: dict[Any, float] | str | None = None,
        calibration: str | None = None,
        threshold: str | None = None,
        positive: str | None = None,
        folds: int = 5,
        augment: str = "none",
        store: str | os.PathLike[str] | None = None,
        mirror: bool = False,
        resize: ResizeFilter = "bilinear",
        preprocess: Any = None,
        prefix_tokens: int | None = None,
        side: int | None = None,
        dtype: Dtype = "float32",
        engine: EngineName = "auto",
        batch_size: int | None = None,
        on_error: OnError = "raise",
        on_damage: OnDamage = "warn",
        colour_profile: ColourProfile = "ignore",
        decode: Decode = "full",
        backend: BackendName = "auto",
        n_threads: int | None = None,
        memory: int | str | None = None,
        random_state: int = 0,
        progress: bool | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.weights = weights
        self.encode = encode
        self.preset = preset
        self.scales = scales
        self.recipe = recipe
        self.C = C
        self.class_weight = class_weight
        self.calibration = calibration
        self.threshold = threshold
        self.positive = positive
        self.folds = folds
        self.augment = augment
        self.store = store
        self.mirror = mirror
        self.resize = resize
        self.preprocess = preprocess
        self.prefix_tokens = prefix_tokens
        self.side = side
        self.dtype = dtype
        self.engine = engine
        self.batch_size = batch_size
        self.on_error = on_error
        self.on_damage = on_damage
        self.colour_profile = colour_profile
        self.decode = decode
        self.backend = backend
        self.n_threads = n_threads
        self.memory = memory
        self.random_state = random_state
        self.progress = progress

    def make_network(self) -> CNNDescriptors:
        """Return the extractor that these parameters describe, not built yet."""
        store = self.store
        if store is None and hasattr(self, "_shared"):
            store = self._shared.folder()
        settled = settle(self)
        given = {name: getattr(self, name) for name in OF_NETWORK}
        given |= {"model": settled.model, "layer": settled.layer, "weights": settled.weights}
        return CNNDescriptors(
            **given,
            scales=settled.scales,
            store=store,
            output="host" if store is None else "store",
        )

    def make_encoders(self, network: CNNDescriptors | None = None) -> dict[str, Any]:
        """Return the estimator of each encoding in `encode`, not fitted, by name.

        Parameters
        ----------
        network : CNNDescriptors or None
            Where the descriptors come from. Needed for tiles and for shifted copies; it is built then.

        Raises
        ------
        InputError
            If there is no such encoding, or its vectors are too wide for training on shifted copies.
        """
        settled = settle(self)
        recipe = settled.recipe
        layout: dict[str, Any] = {}
        if recipe.tiles and network is not None:
            network.build()
            layout = {"grids": network.grids_, "mirrored": network.mirrored_}
        own: dict[str, Any] = {"backend": self.backend, "n_threads": self.n_threads}
        own |= {"random_state": self.random_state} | layout
        names = [name.strip() for name in str(settled.encode).split(",")]
        encoders = {name: recipe.encoder(name, **own) for name in names}
        if settled.augment and network is not None:
            width = network.build().n_features_out_
            for name, encoder in encoders.items():
                check_width(vector_width(encoder, width), f"those of {name}")
        return encoders

    def make_svm(self) -> WideLinearSVC:
        """Return the SVM, not fitted. If C is chosen by cross-validation, its own C is 1."""
        settled = settle(self)
        penalty = 1.0 if settled.C is None else settled.C
        return WideLinearSVC(penalty, class_weight=settled.class_weight, memory=self.memory)

    def __sklearn_clone__(self) -> Self:
        """Return a copy that is not fitted, and that shares the temporary store."""
        if not hasattr(self, "_shared"):
            self._shared = SharedFolder()
        parameters = {name: clone(value, safe=False) for name, value in self.get_params(deep=False).items()}
        twin = type(self)(**parameters)
        twin._shared = self._shared
        return twin

    def _sk_visual_block_(self) -> Any:
        """Return the steps, which notebooks show."""
        encoder = next(iter(self.make_encoders().values()))
        steps = [("features", self.make_network()), *encoder_steps(encoder), ("classify", self.make_svm())]
        return Pipeline(steps)._sk_visual_block_()
