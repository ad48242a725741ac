"""A torch.nn.Module, cut at one of its modules and run by torch.

The module is copied, so that the user's module does not change. The copy computes in float32, in evaluation
mode and without gradients. A hook on the chosen module takes its output, and the network then stops.

The fingerprint of an object covers its weights, the text that torch prints of it, and the source of its own
`forward` methods, because two networks may have the same weights and compute something else.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_n_threads, import_extra, one_line
from medvlad.extraction.networks.cut import NetworkCut
from medvlad.extraction.networks.frozen import FrozenNetwork
from medvlad.extraction.networks.layer_list import Layer, spatial_first
from medvlad.extraction.networks.preprocessing import as_preprocessing

__all__ = ["TorchCut", "build", "import_torch", "layers_of_module", "state_of", "torch_fingerprint"]


class _Reached(Exception):
    """The chosen module has computed its output. The rest of the network is not needed."""


class TorchCut(NetworkCut):
    """A module of torch from preprocessed pixels to the maps of one layer.

    Parameters
    ----------
    module : torch.nn.Module
        Network. It is changed: evaluation mode, float32, no gradients.
    layer : str or None
        Name of a module inside it. None: the output of `whole`.
    name : str
        Name of the network, for messages.
    whole : callable, optional
        Function from a tensor (B, 3, s, s) to the output, such as `module.forward_features`. None: `module`.
    side : int or None
        Only side of the input. None: any.
    usual_side : int, default=224
        Side at which the form of the output is found.
    n_prefix : int or None
        Number of class and register tokens. None: found from the number of tokens.
    channels_first : bool or None
        Whether maps have their channels first. None: found from their shape.

    Attributes
    ----------
    name, form, input_shape, output_shape
        See `NetworkCut`.
    """

    own_engine = "torch"

    def __init__(
        self,
        module: Any,
        layer: str | None,
        name: str,
        *,
        whole: Callable[[Any], Any] | None = None,
        side: int | None = None,
        usual_side: int = 224,
        n_prefix: int | None = None,
        channels_first: bool | None = None,
    ) -> None:
        self.name, self.layer, self.module = name, layer, module.float().eval().requires_grad_(False)
        self._whole = whole or module
        what = f"layer {layer!r} of {name}" if layer else name
        self._find_form(what, side, n_prefix, channels_first, usual_side)

    def _raw(self, pixels: NDArray[np.float32], n_threads: int) -> NDArray[np.float32]:
        torch = import_torch()
        with _settings(torch, n_threads):
            images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
            try:
                found = self._computed(images)
            except torch.OutOfMemoryError as error:
                raise MemoryError(one_line(error)) from error
            except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
                side = pixels.shape[1]
                raise InputError(
                    f"{self.name} cannot take images of {side} x {side} pixels "
                    f"({one_line(error)[:160].rstrip('.')}): use the side that it was made for (side=...)"
                ) from error
            found = found[0] if isinstance(found, tuple | list) and found else found
            if not isinstance(found, torch.Tensor) or found.dtype != torch.float32:
                kind = getattr(found, "dtype", type(found).__name__)
                raise InputError(
                    f"layer {self.layer!r} of {self.name} gives {kind}, not float32 numbers: choose another"
                )
            values: NDArray[np.float32] = found.numpy().copy()
        return values

    def _computed(self, images: Any) -> Any:
        if self.layer is None:
            return self._whole(images)
        reached: list[Any] = []

        def keep(module: Any, given: Any, output: Any) -> None:
            reached.append(output)
            raise _Reached

        hook = self.module.get_submodule(self.layer).register_forward_hook(keep)
        try:
            self._whole(images)
        except _Reached:
            return reached[0]
        finally:
            hook.remove()
        raise InputError(f"{self.name} does not use its layer {self.layer!r}: choose another")


def build(
    model: Any, layer: str, *, preprocess: str | Mapping[str, Any], prefix_tokens: int | None
) -> FrozenNetwork:
    """Build the network of a torch.nn.Module. See :func:`medvlad.extraction.networks.build_network`."""
    name = f"torch:{type(model).__name__}"
    check_layer(model, layer, name)
    try:
        module = copy.deepcopy(model).cpu()
    except Exception as error:  # tensors that are part of a graph, or objects that hold locks
        raise InputError(
            f"{name} cannot be copied ({one_line(error)[:160]}): give a module that can"
        ) from error
    prefix = getattr(model, "num_prefix_tokens", None) if prefix_tokens is None else prefix_tokens
    cut = TorchCut(module, layer, name, n_prefix=prefix if isinstance(prefix, int) else None)
    return FrozenNetwork(
        name, layer, "given", cut, as_preprocessing(preprocess), _object_fingerprint(model), kind="module"
    )


def check_layer(module: Any, layer: str, name: str) -> None:
    """Raise InputError unless a module has a module of this name inside."""
    names = [one for one, _ in module.named_modules() if one]
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=1)
        last = [one for one, _ in module.named_children()][-4:]
        hint = f"did you mean {close[0]!r}?" if close else f"its last modules are {', '.join(last)}"
        raise InputError(f"{name} has no layer {layer!r}: {hint}")


def layers_of_module(cut: TorchCut, side: int) -> list[Layer]:
    """List the modules of a network whose output is a tensor, with their shapes for one image."""
    torch = import_torch()
    found: dict[str, tuple[int, ...]] = {}
    hooks = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: Any, given: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.dtype == torch.float32:
                found.pop(name, None)
                found[name] = tuple(output.shape)

        return hook

    for name, module in cut.module.named_modules():
        if name:
            hooks.append(module.register_forward_hook(record(name)))
    try:
        cut.run(np.zeros((1, side, side, 3), np.float32), check_n_threads(None))
    finally:
        for hook in hooks:
            hook.remove()
    return spatial_first(Layer(name, shape) for name, shape in found.items())


def torch_fingerprint(module: Any) -> str:
    """Return the SHA-256 of a module's weights: shapes and values in their order, without names."""
    return str(_digest(module).hexdigest())


def state_of(model: Any) -> tuple[Any, ...]:
    """Return what changes if the weights of a torch.nn.Module change. No weight is read."""
    return tuple((id(one), getattr(one, "_version", 0)) for one in model.state_dict(keep_vars=True).values())


def _digest(module: Any) -> Any:
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        if getattr(value, "is_floating_point", bool)():
            array = np.ascontiguousarray(value.detach().cpu().float().numpy(), "<f4")
            digest.update(str(array.shape).encode())
            digest.update(array.data)
    return digest


def _object_fingerprint(module: Any) -> str:
    digest = _digest(module)
    digest.update(repr(module).encode())
    own = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.nn.")}
    for kind in sorted(own, key=lambda one: one.__qualname__):
        try:
            text = inspect.getsource(kind)
        except (OSError, TypeError):  # defined in a prompt
            text = getattr(kind.forward, "__code__", kind).__repr__().partition(" at ")[0]
        digest.update(text.encode())
    return str(digest.hexdigest())


def import_torch() -> Any:
    """Import torch, or raise MissingExtraError."""
    return import_extra("torch", "torch", "this network")


_LOCK = threading.Lock()


def _renew_lock() -> None:
    global _LOCK
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def _settings(torch: Any, n_threads: int) -> Iterator[None]:
    """Compute in float32 on `n_threads` threads, without gradients, until the context ends.

    The number of threads and the precision of products belong to the process. One thread at a time may change
    them, so that the values of the caller come back.
    """
    with ExitStack() as stack:
        stack.enter_context(_LOCK)
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        if threads != n_threads:
            torch.set_num_threads(n_threads)
            stack.callback(torch.set_num_threads, threads)
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, precision)
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        yield
