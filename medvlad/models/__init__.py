"""Save a fitted pipeline to a file without pickle, load it, and export it as an ONNX graph."""

from medvlad.models.model_file import load_model, model_card, save_model
from medvlad.models.onnx_export import export_onnx

__all__ = ["export_onnx", "load_model", "model_card", "save_model"]
