"""The last step of a model: one class, several labels, or numbers."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.wide_ridge import WideRidge

__all__ = ["check_names", "name_head", "names_of_head", "task_of_head"]


def task_of_head(head: Any) -> str:
    """Return what a last step predicts: "classes", "labels" or "regression"."""
    if isinstance(head, MultiLabelSVC):
        return "labels"
    return "regression" if isinstance(head, WideRidge) else "classes"


def names_of_head(head: Any) -> NDArray[Any]:
    """Return the names of the classes, labels or targets of a fitted last step."""
    names: NDArray[Any] = head.target_names_ if isinstance(head, WideRidge) else head.classes_
    return names


def name_head(head: Any, names: NDArray[Any]) -> None:
    """Set these names."""
    if isinstance(head, WideRidge):
        head.target_names_ = names
    else:
        head.classes_ = names


def check_names(head: Any, names: NDArray[Any]) -> None:
    """Raise ValueError unless the names are different and enough for this last step."""
    least = 2 if task_of_head(head) == "classes" else 1
    if names.ndim != 1 or not least <= len(names) == len(set(names.tolist())):
        raise ValueError(f"its classes are not {'two' if least == 2 else 'one'} or more different labels")
