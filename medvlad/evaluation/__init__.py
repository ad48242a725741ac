"""Measure how well a classifier works on images that it was not fitted on.

In: descriptors, classes (or several labels, or numbers), patients, an encoder and a classifier. Out: held-out
predictions, metrics, intervals and paired comparisons.
"""

from medvlad.evaluation.calibration import calibration_metrics
from medvlad.evaluation.compare_runs import compare_runs
from medvlad.evaluation.comparison import compare
from medvlad.evaluation.cross_validation import HeldOut, held_out
from medvlad.evaluation.held_out_metrics import compare_held_out, held_out_metrics
from medvlad.evaluation.intervals import metric_estimates, wilson_interval
from medvlad.evaluation.metrics import balanced_accuracy, class_aucs, score_table, scores
from medvlad.evaluation.threshold import mixture_threshold

__all__ = [
    "HeldOut",
    "balanced_accuracy",
    "calibration_metrics",
    "class_aucs",
    "compare",
    "compare_held_out",
    "compare_runs",
    "held_out",
    "held_out_metrics",
    "metric_estimates",
    "mixture_threshold",
    "score_table",
    "scores",
    "wilson_interval",
]
