"""Fit an exact linear SVM, even if there are many more features than images.

In: vectors (B, d) and labels. Out: a scikit-learn classifier and its decision values.
"""

from medvlad.svm.decision import decision_columns
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["WideLinearSVC", "decision_columns"]
