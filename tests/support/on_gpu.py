"""Descriptors on a GPU for tests of the cuda backend."""

import numpy as np

from medvlad.descriptors.gpu_array import GpuArray


def as_bfloat16(x):
    """Return the bits of each number cut off to bfloat16, and these numbers as float32."""
    bits = (x.view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def placed(cupy, x, element):
    """Return `x` on the GPU as numbers of dtype `element`, and the same numbers as float32 on the host."""
    if element == "float16":
        half = x.astype(np.float16)
        return GpuArray(cupy.asarray(half), element), half.astype(np.float32)
    if element == "bfloat16":
        bits, same = as_bfloat16(x)
        return GpuArray(cupy.asarray(bits), element), same
    return GpuArray(cupy.asarray(x)), x
