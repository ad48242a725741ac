"""Measure how well a classifier works on images that it was not fitted on.

In: descriptors, labels, patients, an encoder and a classifier. Out: held-out predictions, metrics,
intervals and paired comparisons.
"""

from medvlad.evaluation.bootstrap import bootstrap_intervals, compare
from medvlad.evaluation.calibration import calibration_metrics
from medvlad.evaluation.compare_runs import compare_runs
from medvlad.evaluation.cross_validation import HeldOut, held_out
from medvlad.evaluation.held_out_metrics import compare_held_out, held_out_metrics
from medvlad.evaluation.metrics import balanced_accuracy, class_aucs, score_table, scores, wilson_interval
from medvlad.evaluation.threshold import mixture_threshold

__all__ = [
    "HeldOut",
    "balanced_accuracy",
    "bootstrap_intervals",
    "calibration_metrics",
    "class_aucs",
    "compare",
    "compare_held_out",
    "compare_runs",
    "held_out",
    "held_out_metrics",
    "mixture_threshold",
    "score_table",
    "scores",
    "wilson_interval",
]
