"""What scikit-learn must know about an estimator of images, and the report of one of its calls."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Self

from sklearn.base import BaseEstimator, TransformerMixin

__all__ = ["ExtractionReport", "ImageTransformer", "log_damage"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionReport:
    """Report of one call of `transform` or `extract`.

    Parameters
    ----------
    skipped : list of (int, str)
        Index and reason of each skipped image, in the order of the images.
    n_extracted : int
        Number of images that went through the network. The others came from the store or were skipped.
    damaged : list of (int, str)
        Index and reason of each damaged image that was used all the same, in the order of the images.
    n_stored : int or None, default=None
        Number of different images that the store holds after the call. Copies count once. None: no store.
    """

    skipped: list[tuple[int, str]]
    n_extracted: int
    damaged: list[tuple[int, str]] = field(default_factory=list)
    n_stored: int | None = None


def log_damage(report: ExtractionReport, n_images: int) -> None:
    """Log a warning if damaged images were used. Their names are in the report."""
    if report.damaged:
        logger.warning(
            "%d of %d images have damaged JPEG data and were used all the same: look at them, or leave them "
            "out with on_damage='skip'",
            len(report.damaged),
            n_images,
        )


class ImageTransformer(TransformerMixin, BaseEstimator):
    """Base class of an estimator that takes images, needs no `fit` and reports on its calls.

    A call ends with a single assignment to `report_`. So `skipped_` and `n_extracted_` belong to the same
    call, even if several threads use the estimator.

    Attributes
    ----------
    report_ : ExtractionReport
        Report of the call that ended last.
    """

    report_: ExtractionReport
    _not_pickled: tuple[str, ...] = ()

    @property
    def skipped_(self) -> list[tuple[int, str]]:
        """Index and reason of each image that the last call skipped."""
        return self.report_.skipped

    @property
    def damaged_(self) -> list[tuple[int, str]]:
        """Index and reason of each damaged image that the last call used all the same."""
        return self.report_.damaged

    @property
    def n_extracted_(self) -> int:
        """Number of images that the last call put through the network."""
        return self.report_.n_extracted

    def with_parameters(self, **parameters: Any) -> Self:
        """Return a copy with other parameters. It shares everything that is built, such as the network."""
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        twin.set_params(**parameters)
        return twin

    def set_output(self, *, transform: str | None = None) -> Self:
        """Do nothing: descriptors have no columns. A pipeline calls this on all of its steps."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes to pickle, without those that are built again when they are needed."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name not in self._not_pickled}
