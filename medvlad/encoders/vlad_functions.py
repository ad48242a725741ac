"""Assignment and VLAD for given centres, as functions.

:mod:`medvlad.backends.reference` explains the mathematics. :class:`medvlad.VLAD` learns the centres.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.choices import BackendName
from medvlad._util.validate import check_n_threads
from medvlad.backends import get_backend
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors.array_api import on_host, on_host_from_anywhere
from medvlad.descriptors.checks import check_centers, check_output
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.ragged import Descriptors, as_descriptors, read_matrix

__all__ = ["assign", "encode_batch", "vlad_encode"]


def assign(x: Any, centers: Any, *, backend: BackendName = "auto", n_threads: int | None = None) -> Any:
    """Return the index of the nearest centre of each descriptor.

    Parameters
    ----------
    x : array-like of shape (N, D)
        Descriptors in host memory, or on a GPU as any array with ``__dlpack__``.
    centers : array-like of shape (K, D)
        Cluster centres.
    backend : str, default="auto"
        Name of a backend, see :func:`medvlad.available_backends`.
    n_threads : int or None, default=None
        Number of threads. None: all processors that this process may use.

    Returns
    -------
    ndarray of int32, shape (N,)
        The exact nearest centre of the float32 numbers. The lowest index wins a tie. Descriptors on a GPU
        give an array of the same library on that GPU.

    Raises
    ------
    InputError
        If shapes, dtypes or widths do not match, or if a number is not finite.
    """
    x = read_matrix(on_host(x, "descriptors"), "descriptors")
    c = check_centers(on_host_from_anywhere(centers, "centers"), x.shape[1])
    labels = get_backend(backend, x).assign(x, c, n_threads=check_n_threads(n_threads))
    return x.give_back(labels) if isinstance(x, GpuArray) else labels


def vlad_encode(
    descriptors: Any,
    centers: Any,
    *,
    power: float = 1.0,
    intra_norm: bool = False,
    l2_norm: bool = True,
    backend: BackendName = "auto",
    n_threads: int | None = None,
    out: Any = None,
    labels_out: Any = None,
    counts_out: Any = None,
) -> Any:
    """Return the VLAD of each image for given centres.

    Parameters
    ----------
    descriptors : Descriptors, list of (n_i, D), array (B, n, D), feature maps (B, H, W, D) or array (B, D)
        A 2-D array is read as one descriptor per image. Arrays are in host memory, or on a GPU as any array
        with ``__dlpack__`` of float32, float16 or bfloat16.
    centers : array-like of shape (K, D)
        Cluster centres.
    power : float in (0, 1], default=1.0
        Exponent of the signed power. 1: no power. A common choice is 0.5.
    intra_norm : bool, default=False
        Scale each cell's residual to unit length.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.
    backend : str, default="auto"
        Name of a backend, see :func:`medvlad.available_backends`.
    n_threads : int or None, default=None
        Number of threads. None: all processors that this process may use.
    out : ndarray of float32, shape (B, K * D), optional
        C-contiguous array to write into, on the same GPU if the descriptors are on one. Reuse one output
        array across batches: allocating a new one can cost more than the encoding. If a descriptor is not
        finite, its contents are undefined afterwards, and so are those of the other outputs.
    labels_out : ndarray of int32, shape (N,), optional
        Filled with the nearest centre of each descriptor.
    counts_out : ndarray of int64, shape (B, K), optional
        Filled with the number of descriptors of each cell.

    Returns
    -------
    ndarray of float32, shape (B, K * D)
        Cell after cell; `out`, if it was given. An image without descriptors gives zeros. Descriptors on a
        GPU give an array of the same library on that GPU.

    Raises
    ------
    InputError
        If shapes, dtypes or widths do not match, or if a number is not finite. The message then names the
        image and the row.

    References
    ----------
    Jegou, Douze, Schmid, Perez: Aggregating local descriptors into a compact image representation. CVPR 2010.
    """
    batch = as_descriptors(on_host(descriptors, "descriptors"))
    c = check_centers(on_host_from_anywhere(centers, "centers"), batch.n_features)
    wanted = {
        "out": (out, (len(batch), c.size), np.float32),
        "labels_out": (labels_out, (len(batch.values),), np.int32),
        "counts_out": (counts_out, (len(batch), len(c)), np.int64),
    }
    outputs: dict[str, Any] = {}
    if isinstance(batch.values, GpuArray):
        for name, (given, shape, dtype) in wanted.items():
            if given is not None:
                outputs[name] = batch.values.output(given, name, shape, dtype, list(outputs.values()))
    else:
        used: tuple[NDArray[Any], ...] = (batch.values, batch.offsets, c)
        for name, (given, shape, dtype) in wanted.items():
            if given is not None:
                outputs[name] = check_output(given, name, shape, dtype, *used)
                used = (*used, given)
    how = Normalisation(power=power, intra_norm=intra_norm, l2_norm=l2_norm)
    encoded = encode_batch(batch, c, how, backend=backend, n_threads=n_threads, **outputs)
    return encoded if out is None else out


def encode_batch(
    batch: Descriptors,
    centers: NDArray[np.float32],
    how: Normalisation,
    *,
    backend: str,
    n_threads: int | None,
    **outputs: Any,
) -> Any:
    """Encode descriptors by hard assignment. The backend checks that they, and the vectors, are finite.

    Parameters
    ----------
    batch : Descriptors
    centers : ndarray of float32, shape (K, D)
    how : Normalisation
        Its `mass_norm` must be off: backends divide by the mass in `encode_weighted` only.
    backend, n_threads
        See :func:`vlad_encode`.
    **outputs
        `out`, `labels_out` and `counts_out` of the backend.

    Returns
    -------
    ndarray of float32, shape (B, K * D)
        On the GPU, and of the library, of the descriptors if these are on a GPU.
    """
    encoded = get_backend(backend, batch.values).encode(
        batch.values,
        batch.offsets,
        centers,
        power=how.power,
        intra_norm=how.intra_norm,
        l2_norm=how.l2_norm,
        n_threads=check_n_threads(n_threads),
        **outputs,
    )
    on_device = isinstance(batch.values, GpuArray)
    return batch.values.give_back(encoded) if on_device else encoded
