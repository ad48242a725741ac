"""Probabilities, prediction sets, a test for unusual images, and similar training images.

In: decision values of the linear SVM, and the vectors of images. Out: probabilities, prediction sets, a test
for images unlike the training images, and similar training images.
"""

from medvlad.decisions.answers import Answering, answers_of, check_answers
from medvlad.decisions.calibrated_svc import CalibratedSVC, calibrate_on, linear_part
from medvlad.decisions.novelty import mean_descriptors

__all__ = [
    "Answering",
    "CalibratedSVC",
    "answers_of",
    "calibrate_on",
    "check_answers",
    "linear_part",
    "mean_descriptors",
]
