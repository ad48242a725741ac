"""One estimator from images to classes.

In: images, their classes and patients. Out: a fitted scikit-learn classifier with methods to explain
predictions and to save the model.
"""

from medvlad.classifier.explained_image import ExplainedImage
from medvlad.classifier.image_classifier import ImageClassifier
from medvlad.classifier.steps import PENALTIES

__all__ = ["PENALTIES", "ExplainedImage", "ImageClassifier"]
