"""The command layers."""

from __future__ import annotations

import json

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command

__all__ = ["layers"]


@cloup.command(
    cls=Command,
    examples=["medvlad layers vgg16", "medvlad layers network.onnx", "medvlad layers timm:resnet50"],
)
@cloup.argument(
    "network", metavar="NAME|FILE", help="Network: a name of keras.applications, an ONNX file, or timm:NAME."
)
@cloup.option("-n", "--number", type=int, metavar="N", default=20, help="Number of layers; 0 lists all.")
@options.JSON
def layers(network: str, number: int, as_json: bool) -> None:
    """List the layers at which a network can be cut, the last ones first.

    Layers with several positions (feature maps, patch tokens) come first. The shapes are for one
    image. No weights are downloaded.
    """
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.extraction.networks import layers_of_network, needs_keras

    if needs_keras(network) and not network.lower().endswith(".onnx"):
        start_keras(network)
    found = layers_of_network(network)
    shown = found[:number] if number > 0 else found
    if as_json:
        rows = [{"layer": one.name, "shape": one.shape, "spatial": one.is_spatial} for one in shown]
        click.echo(json.dumps({"network": network, "layers": rows}, indent=2))
        return
    width = max((len(one.name) for one in shown), default=0)
    for one in shown:
        shape = " x ".join(map(str, (one.shape or ())[1:]))
        click.echo(f"{one.name:<{width}}  {shape}{'' if one.is_spatial else '  (one position)'}")
    if len(found) > len(shown):
        click.echo(f"... and {len(found) - len(shown)} more; -n 0 lists all")
