"""The commands show and export: what a trained model is, and the same as ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medvlad._util.validate import check_output_file
from medvlad.cli.options import PATH
from medvlad.extraction.keras_startup import start_keras

__all__ = ["export", "show"]


@click.command()
@click.argument("model", type=PATH)
def show(model: Path) -> None:
    """Print what MODEL is, as JSON: steps, classes, versions, what it was trained on."""
    from medvlad.models.model_file import model_card

    click.echo(json.dumps(model_card(model), indent=2))


@click.command()
@click.argument("model", type=PATH)
@click.argument("output", metavar="OUT.onnx", type=PATH)
@click.option("--weights", help="Where the network's weights are on this machine.")
@click.option(
    "--from-features", is_flag=True, help="Begin at descriptors (B, n, D), for networks other than VGG."
)
def export(model: Path, output: Path, weights: str | None, from_features: bool) -> None:
    """Write MODEL, which `medvlad train` made, as one ONNX graph from pixels to scores (extra onnx)."""
    from medvlad.models.model_file import check_readable, load_model
    from medvlad.models.onnx_export import export_onnx

    check_readable(model)
    check_output_file(output, "ONNX model")
    start_keras()
    inputs = export_onnx(load_model(model, weights=weights), output, from_features=from_features)
    shapes = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in inputs.items())
    click.echo(f"wrote {output}: from {shapes} to scores and label; classes are in its metadata")
