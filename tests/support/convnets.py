"""Small networks of convolutions and pooling, with inputs."""

import numpy as np

from medvlad.extraction.engines.winograd import Convolution, Pooling


def convolution(rng, n_in, n_out, relu=True):
    kernel = rng.normal(size=(3, 3, n_in, n_out)) / np.sqrt(9 * n_in)
    return Convolution(kernel.astype(np.float32), rng.normal(size=n_out).astype(np.float32), relu)


def chain(rng, *widths):
    """Return convolutions with these numbers of channels. 0 is a pooling."""
    layers, width = [], None
    for w in widths:
        if w == 0:
            layers.append(Pooling())
            continue
        if width is not None:
            layers.append(convolution(rng, width, w))
        width = w
    return layers


def pictures(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)
