"""Options that say which network runs, and options of networks that Keras does not define."""

from __future__ import annotations

import click
import cloup

__all__ = ["LAYER", "MODEL", "OTHER_NETWORKS"]

MODEL = cloup.option(
    "--model",
    metavar="NAME",
    default="vgg19",
    help="Network: a name of keras.applications, efficientnet-lite2, onnx:FILE or timm:NAME.",
)
LAYER = cloup.option(
    "--layer",
    metavar="NAME",
    help="Layer whose output gives the descriptors, see 'medvlad layers'.  [default: block5_pool of VGG, "
    "otherwise the last feature map or patch tokens]",
)

OTHER_NETWORKS = (
    cloup.option(
        "--preprocess",
        type=click.Choice(["imagenet", "scale", "minus1_1", "caffe", "raw"]),
        metavar="NAME",
        help="Preprocessing of an onnx: or timm: network: imagenet, scale (0 to 1), minus1_1 (-1 to 1), "
        "caffe or raw.  [default: the network's own, or imagenet]",
    ),
    cloup.option(
        "--prefix-tokens",
        type=int,
        metavar="N",
        help="Number of class and register tokens of an onnx: or timm: network.  [default: found "
        "automatically]",
    ),
    cloup.option(
        "--side",
        type=int,
        metavar="PIXELS",
        help="Side of the input of an onnx: or timm: network.  [default: 224, or its only side]",
    ),
)
