"""Fit exact linear models, even if there are many more features than images.

In: vectors (B, d), and classes, several labels or numbers. Out: scikit-learn estimators and their decision
values.
"""

from medvlad.svm.decision import decision_columns
from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.wide_linear_svc import WideLinearSVC
from medvlad.svm.wide_ridge import WideRidge

__all__ = ["MultiLabelSVC", "WideLinearSVC", "WideRidge", "decision_columns"]
