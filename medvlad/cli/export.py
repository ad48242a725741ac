"""The command export."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command
from medvlad.cli.model_network import check_weights_of
from medvlad.cli.settings import check_replaced

__all__ = ["export"]


@cloup.command(
    cls=Command,
    examples=["medvlad export xray.model xray.onnx", "medvlad export xray.model xray.onnx --from-features"],
)
@cloup.argument("model", type=options.PATH_OR_URL, help="Model file of 'medvlad train'.")
@cloup.argument("output", metavar="OUT.onnx", type=options.PATH, help="ONNX file to write.")
@options.WEIGHTS_OF_MODEL
@cloup.option(
    "--from-features",
    is_flag=True,
    help="Let the graph begin at descriptors (B, n, D). Needed for networks other than VGG and onnx:FILE.",
)
@cloup.option(
    "--triton",
    is_flag=True,
    help="Write a folder for the model repository of a Triton server: OUT/1/model.onnx and OUT/config.pbtxt.",
)
@options.OVERWRITE_FILE
def export(
    model: Path, output: Path, weights: str | None, from_features: bool, triton: bool, overwrite: bool
) -> None:
    """Write a model as one ONNX graph from pixels to decision values.

    Needs the extra 'onnx'.
    """
    from medvlad._util.validate import check_output_file
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.models.heads import task_of_head
    from medvlad.models.model_file import check_readable, load_model, model_of
    from medvlad.models.onnx_export import export_onnx, is_exported

    check_readable(model)
    folder = output
    if triton:
        output = folder / "1" / "model.onnx"
        output.parent.mkdir(parents=True, exist_ok=True)
    check_output_file(output, "ONNX model", may_replace=is_exported)
    network = model_of(model)
    check_weights_of(model, weights)
    replaced = check_replaced(output, "OUT.onnx", overwrite=overwrite)
    if triton:
        check_replaced(folder / "config.pbtxt", "OUT/config.pbtxt", overwrite=overwrite)
    if network:  # else the model was trained on descriptors
        start_keras(network)
    pipeline = load_model(model, weights=weights)
    inputs = export_onnx(pipeline, output, from_features=from_features)
    if triton:
        from medvlad._util.atomic_file import write_file
        from medvlad.models.triton_config import triton_config

        write_file(folder / "config.pbtxt", triton_config(output, folder.resolve().name).encode(), "settings")
    outputs = "values" if task_of_head(pipeline[-1]) == "regression" else "scores and label"
    shapes = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in inputs.items())
    wrote = "replaced" if replaced else "wrote"
    click.echo(f"{wrote} {output}: from {shapes} to {outputs}; its metadata names the classes")
