"""Measure how well a classifier works on images that it was not fitted on.

In: descriptors, labels, patients, an encoder and a classifier. Out: held-out predictions, metrics,
intervals and paired comparisons.
"""

from medvlad.evaluation.bootstrap import bootstrap_intervals, compare
from medvlad.evaluation.calibration import calibration_figures
from medvlad.evaluation.compare_runs import compare_runs
from medvlad.evaluation.cross_validation import HeldOut, held_out
from medvlad.evaluation.metrics import figures, score_table, scores
from medvlad.evaluation.threshold import mixture_threshold

__all__ = [
    "HeldOut",
    "bootstrap_intervals",
    "calibration_figures",
    "compare",
    "compare_runs",
    "figures",
    "held_out",
    "mixture_threshold",
    "score_table",
    "scores",
]
