"""Networks: from the name of a network to a :class:`FrozenNetwork`, cut at a layer.

========================= ============================================= ========================
`model`                   what it is                                    run by
========================= ============================================= ========================
"vgg19", "resnet50", ...  an application of Keras                       keras, native, openvino
"onnx:FILE"               a network in an ONNX file                     onnxruntime
"timm:NAME"               a network of timm, also a vision transformer  torch
a torch.nn.Module object  any network of PyTorch                        torch
========================= ============================================= ========================

The module `choose` is the only place that chooses. Keras, onnx and torch are imported
only for networks that need them.
"""

from medvlad.extraction.networks.choose import (
    build_network,
    check_network,
    kind_of,
    layers_of_network,
    needs_keras,
    network_key,
)
from medvlad.extraction.networks.frozen import FrozenNetwork
from medvlad.extraction.networks.layer_list import Layer

__all__ = [
    "FrozenNetwork",
    "Layer",
    "build_network",
    "check_network",
    "kind_of",
    "layers_of_network",
    "needs_keras",
    "network_key",
]
