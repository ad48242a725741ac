"""Save a fitted pipeline, load it again, or export it as an ONNX graph.

In: a fitted scikit-learn Pipeline that ends in a linear model of :mod:`medvlad.svm`, CalibratedSVC or
LogisticRegression. Out: a model file of numbers and text only, the pipeline of such a file, or an ONNX file.
"""

from medvlad.models.model_file import load_model, model_card, save_model
from medvlad.models.onnx_export import export_onnx

__all__ = ["export_onnx", "load_model", "model_card", "save_model"]
