"""One estimator from images to classes.

In: images, their classes and patients. Out: a fitted classifier of scikit-learn's kind, which predicts,
explains and saves itself.
"""

from medvlad.classifier.explained_image import ExplainedImage
from medvlad.classifier.image_classifier import ImageClassifier
from medvlad.classifier.steps import PENALTIES

__all__ = ["PENALTIES", "ExplainedImage", "ImageClassifier"]
