"""Evaluate and train a classifier on a folder or a table of images.

In: settings, and the path of the data. Out: metrics with settings and versions, or a fitted classifier.
The commands `evaluate` and `train` do their work here.
"""

from medvlad.experiment.evaluation import Evaluation
from medvlad.experiment.experiment import Experiment, calibration_images

__all__ = ["Evaluation", "Experiment", "calibration_images"]
