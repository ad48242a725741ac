"""Implementations of encoding on a GPU: medvlad's kernels, torch, JAX and CuPy.

Each is a class that takes descriptors, offsets and centres and prepares them untimed. The descriptors are a
list of arrays (N, D), which are used in turn, so that no input is in the cache. ``run(i)`` encodes array i
with L2 normalisation and leaves the result on the device. ``seconds(runs)`` returns the time of a run.
Output buffers are allocated in advance if the library accepts them. Without a GPU, torch and JAX run on the
CPU, for the tests.
"""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version

import numpy as np

import medvlad as mv

#: Decay of the weights of soft assignment with squared distance.
SOFTNESS = 0.02


class Unavailable(Exception):
    """An implementation cannot run here. The message gives the reason."""


def _cupy():
    state = mv.available_backends()["cuda"]
    if not state.startswith("ok"):
        raise Unavailable(state)
    import cupy

    return cupy


class _Cupy:
    """An implementation that is timed with CUDA events on CuPy's stream."""

    def seconds(self, runs):
        cupy = _cupy()
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        for i in runs:
            self.run(i)
        end.record()
        end.synchronize()
        return cupy.cuda.get_elapsed_time(begin, end) / 1e3 / len(runs)


class Medvlad(_Cupy):
    """This package. It writes into an existing array."""

    def __init__(self, inputs, offsets, centers):
        cupy = _cupy()
        self.versions = {"cupy": version_of("cupy")}
        self._inputs = [mv.Descriptors(cupy.asarray(x), offsets) for x in inputs]
        self._centers = centers
        self._out = cupy.empty((len(offsets) - 1, centers.size), np.float32)

    def run(self, i):
        mv.vlad_encode(self._inputs[i], self._centers, out=self._out)

    def result(self):
        return self._out.get()


class PlainCupy(_Cupy):
    """CuPy without custom kernels: a product, argmax and scatter-add."""

    def __init__(self, inputs, offsets, centers):
        cupy = _cupy()
        self.versions = {"cupy": version_of("cupy")}
        self._cupy = cupy
        self._inputs = [cupy.asarray(x) for x in inputs]
        self._centers = cupy.asarray(centers)
        self._half = 0.5 * cupy.square(self._centers).sum(axis=1)
        images = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        self._first = cupy.asarray(images * len(centers))
        self._out = cupy.empty((len(offsets) - 1, *centers.shape), np.float32)

    def run(self, i):
        cupy, x = self._cupy, self._inputs[i]
        labels = (x @ self._centers.T - self._half).argmax(axis=1)
        self._out[...] = 0
        cells = self._out.reshape(-1, x.shape[1])
        cupy.add.at(cells, self._first + labels, x - self._centers[labels])
        flat = self._out.reshape(len(self._out), -1)
        norms = cupy.linalg.norm(flat, axis=1, keepdims=True)
        cupy.divide(flat, cupy.maximum(norms, 1e-12), out=flat)

    def result(self):
        return self._out.reshape(len(self._out), -1).get()


class Torch:
    """torch: addmm, argmax and index_add_. On a GPU, products are computed in tf32."""

    compiled = False

    def __init__(self, inputs, offsets, centers):
        try:
            import torch
        except ImportError as error:
            raise Unavailable(str(error)) from error
        self.versions = {"torch": torch.__version__}
        self._torch = torch
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.compiled and device == "cpu":
            raise Unavailable("no GPU; compiling for the CPU would take minutes")
        torch.backends.cuda.matmul.allow_tf32 = True
        self._inputs = [torch.from_numpy(x).to(device) for x in inputs]
        encode = self._function(torch, torch.from_numpy(centers).to(device), offsets)
        self._encode = torch.compile(encode) if self.compiled else encode
        self._result = None

    def _function(self, torch, c, offsets):
        """Return the function that encodes descriptors on the device."""
        device, k, n_images = c.device, len(c), len(offsets) - 1
        minus_half = -0.5 * c.square().sum(dim=1)
        first = torch.repeat_interleave(
            torch.arange(n_images, device=device), torch.from_numpy(np.diff(offsets)).to(device)
        ).mul_(k)

        def encode(x):
            cells = first + torch.addmm(minus_half, x, c.t()).argmax(dim=1)
            sums = torch.zeros(n_images * k, x.shape[1], device=x.device).index_add_(0, cells, x)
            counts = torch.zeros(n_images * k, device=x.device).index_add_(
                0, cells, torch.ones_like(cells, dtype=torch.float32)
            )
            vlad = sums.view(n_images, k, -1) - counts.view(n_images, k, 1) * c
            return torch.nn.functional.normalize(vlad.view(n_images, -1), dim=1)

        return encode

    def run(self, i):
        with self._torch.inference_mode():
            self._result = self._encode(self._inputs[i])

    def seconds(self, runs):
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in runs:
            self.run(i)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / len(runs)

    def result(self):
        return self._result.cpu().numpy()


class TorchCompiled(Torch):
    """torch, compiled by torch.compile."""

    compiled = True


class SoftMedvlad(_Cupy):
    """Soft assignment to all cells by this package."""

    def __init__(self, inputs, offsets, centers):
        cupy = _cupy()
        self.versions = {"cupy": version_of("cupy")}
        self._inputs = [mv.Descriptors(cupy.asarray(x), offsets) for x in inputs]
        vlad = mv.VLAD(len(centers), centers=centers, assignment="soft", alpha=SOFTNESS)
        self._vlad = vlad.fit(inputs[0][:1])
        self._result = None

    def run(self, i):
        self._result = self._vlad.transform(self._inputs[i])

    def result(self):
        return self._result.get()


class SoftTorch(Torch):
    """torch: softmax and a product for each image, for images of one size. Products are computed in tf32."""

    def _function(self, torch, c, offsets):
        k, d = c.shape
        n = int(offsets[1])
        minus_half = -0.5 * c.square().sum(dim=1)

        def encode(x):
            weights = (2 * SOFTNESS * torch.addmm(minus_half, x, c.t())).softmax(dim=1).view(-1, n, k)
            sums = torch.bmm(weights.transpose(1, 2), x.view(-1, n, d))
            vlad = sums - weights.sum(dim=1)[..., None] * c
            return torch.nn.functional.normalize(vlad.view(len(vlad), -1), dim=1)

        return encode


class Jax:
    """JAX: a product, argmax and segment_sum, under jit. It is timed by the host's clock."""

    def __init__(self, inputs, offsets, centers):
        try:
            import jax
        except ImportError as error:
            raise Unavailable(str(error)) from error
        jnp = jax.numpy
        self.versions = {"jax": jax.__version__}
        k, n_images = len(centers), len(offsets) - 1
        images = np.repeat(np.arange(n_images), np.diff(offsets))
        c, first = jnp.asarray(centers), jnp.asarray(images * k)

        @jax.jit
        def encode(x):
            cells = first + (x @ c.T - 0.5 * jnp.square(c).sum(axis=1)).argmax(axis=1)
            sums = jax.ops.segment_sum(x, cells, n_images * k)
            counts = jax.ops.segment_sum(jnp.ones(len(x)), cells, n_images * k)
            vlad = (sums - counts[:, None] * jnp.tile(c, (n_images, 1))).reshape(n_images, -1)
            return vlad / jnp.maximum(jnp.linalg.norm(vlad, axis=1, keepdims=True), 1e-12)

        self._inputs, self._encode, self._result = [jnp.asarray(x) for x in inputs], encode, None

    def run(self, i):
        self._result = self._encode(self._inputs[i])

    def seconds(self, runs):
        self._result.block_until_ready()
        begin = time.perf_counter()
        for i in runs:
            self.run(i)
        self._result.block_until_ready()
        return (time.perf_counter() - begin) / len(runs)

    def result(self):
        return np.asarray(self._result)


#: Implementations of soft assignment to all cells.
SOFT_RIVALS = {"medvlad": SoftMedvlad, "torch": SoftTorch}

#: All implementations, in the order of the report's columns.
GPU_RIVALS = {
    "medvlad": Medvlad,
    "torch": Torch,
    "torch compiled": TorchCompiled,
    "jax": Jax,
    "cupy": PlainCupy,
}


def version_of(package):
    """Return the version of CuPy, which can be installed under several names."""
    for name in (package, f"{package}-cuda13x", f"{package}-cuda12x"):
        try:
            return version(name)
        except ImportError:
            continue
    return "unknown"


def ceilings():
    """Measure the limits of the GPU: copied bytes (read and written) and tf32 operations a second."""
    cupy = _cupy()
    device = cupy.cuda.Device()
    name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
    source, target = cupy.ones(1 << 28, np.float32), cupy.empty(1 << 28, np.float32)
    copied = 2 * source.nbytes / 1e9
    found = {"name": name, "copy_gb_s": copied / _fastest(partial(cupy.copyto, target, source))}
    try:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = True
        a = torch.ones(8192, 8192, device="cuda")
        product = torch.empty_like(a)
        torch.matmul(a, a, out=product)
        torch.cuda.synchronize()
        rate = 2 * 8192**3 / 1e9 / _fastest(lambda: torch.matmul(a, a, out=product))
        found["tf32_gflops"] = rate
    except ImportError:
        a = cupy.ones((8192, 8192), np.float32)
        found["float32_gflops"] = 2 * 8192**3 / 1e9 / _fastest(lambda: a @ a)
    return found


def _fastest(work, rounds=20):
    """Return the seconds of the fastest round, on the default stream, which torch and CuPy share."""
    cupy, best = _cupy(), float("inf")
    for _ in range(rounds):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        work()
        end.record()
        end.synchronize()
        best = min(best, cupy.cuda.get_elapsed_time(begin, end) / 1e3)
    return best
