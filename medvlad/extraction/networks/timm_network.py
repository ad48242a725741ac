"""A network of timm: a convolutional network or a vision transformer.

Without a layer, the descriptors are those of `forward_features`: the last feature map, or the tokens after
the last block and its normalisation. Class and register tokens are left out.

Vision transformers that can compute with other sizes of the image do so (`dynamic_img_size`). Their position
embedding is then interpolated. Mean and standard deviation are those of the network's data configuration.

Weights come from timm's hub, from a file or its URL, or from a seed::

    "imagenet"              the pretrained weights that timm's name stands for
    .safetensors            tensors by name
    .pth, .pt, .bin         tensors by name in a pickle, read with weights_only=True, which runs no code
    "random"                random weights from a fixed seed, for tests
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.extraction.fetched_weights import weights_file
from medvlad.extraction.networks.frozen import FrozenNetwork
from medvlad.extraction.networks.layer_list import Layer
from medvlad.extraction.networks.preprocessing import Preprocessing, as_preprocessing
from medvlad.extraction.networks.torch_cut import (
    TorchCut,
    check_layer,
    import_torch,
    layers_of_module,
    torch_fingerprint,
)

__all__ = ["FEATURES", "build", "layers_of_timm"]

logger = logging.getLogger(__name__)

FEATURES = "forward_features"
_SIDE = 224
_SEED = 0


def build(
    model: str,
    layer: str | None,
    weights: str | os.PathLike[str],
    *,
    preprocess: str | Mapping[str, Any] | None,
    prefix_tokens: int | None,
) -> FrozenNetwork:
    """Build the network of "timm:NAME". See :func:`medvlad.extraction.networks.build_network`."""
    timm = import_timm()
    source = os.fspath(weights)
    module, is_free = _create(timm, model, source)
    config = timm.data.resolve_model_data_config(module)
    chosen = as_preprocessing(_own(config) if preprocess is None else preprocess)
    own_side = int(config["input_size"][-1])
    layer = layer or FEATURES
    if layer != FEATURES:
        check_layer(module, layer, model)
    cut = TorchCut(
        module,
        None if layer == FEATURES else layer,
        model,
        whole=module.forward_features if layer == FEATURES else module,
        side=None if is_free else own_side,
        usual_side=_SIDE if is_free else own_side,
        n_prefix=getattr(module, "num_prefix_tokens", None) if prefix_tokens is None else prefix_tokens,
        channels_first=_channels_first(module),
    )
    logger.info(
        "%s: layer %s, preprocessing %s; the network was trained with %s resizing and sides of %d pixels",
        model,
        layer,
        chosen.settings(),
        config["interpolation"],
        own_side,
    )
    return FrozenNetwork(model, layer, source, cut, chosen, torch_fingerprint(module), kind="timm")


def layers_of_timm(model: str) -> list[Layer]:
    """List the layers of "timm:NAME" at which it can be cut. No weights are needed."""
    timm = import_timm()
    module, is_free = _create(timm, model, "random")
    side = _SIDE if is_free else int(timm.data.resolve_model_data_config(module)["input_size"][-1])
    cut = TorchCut(module, None, model, usual_side=side, n_prefix=0)
    found = layers_of_module(cut, side)
    prefix, first = getattr(module, "num_prefix_tokens", None), _channels_first(module)
    whole = TorchCut(
        module,
        None,
        model,
        whole=module.forward_features,
        usual_side=side,
        n_prefix=prefix,
        channels_first=first,
    )
    return [Layer(FEATURES, whole.shape_at(side)), *found]


def import_timm() -> Any:
    """Import timm, or raise MissingExtraError."""
    import_torch()
    timm = import_extra("timm", "torch", "model='timm:NAME'")
    import_extra("timm.data", "torch", "model='timm:NAME'")
    return timm


def _own(config: Mapping[str, Any]) -> Preprocessing:
    return as_preprocessing({"factor": 1 / 255, "mean": config["mean"], "std": config["std"]})


def _channels_first(module: Any) -> bool | None:
    """Return whether the output of a network has its channels first, as timm says. None: unknown."""
    known = getattr(module, "output_fmt", None)
    text = str(getattr(known, "value", known)).upper()
    return {"NCHW": True, "NHWC": False}.get(text)


def _create(timm: Any, model: str, source: str) -> tuple[Any, bool]:
    """Create a network with weights. Return it, and whether it takes images of any size."""
    torch = import_torch()
    name = model.removeprefix("timm:")
    options: dict[str, Any] = {"pretrained": source == "imagenet", "num_classes": 0}
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(_SEED)
        try:
            try:
                module = timm.create_model(name, dynamic_img_size=True, **options)
                is_free = True
            except TypeError:  # this network has no such option
                module = timm.create_model(name, **options)
                is_free = not (getattr(module, "pretrained_cfg", None) or {}).get("fixed_input_size", False)
        except MemoryError:
            raise
        except Exception as error:  # timm, its hub and the network raise many types of errors
            raise _reason(timm, name, error, pretrained=options["pretrained"]) from error
    if source not in ("imagenet", "random"):
        _fill(torch, module, weights_file(source), model)
    return module, is_free


def _reason(timm: Any, name: str, error: Exception, *, pretrained: bool) -> InputError:
    reason = one_line(error)[:200].rstrip(".")
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists its networks"
        return InputError(f"timm has no network {name!r}: {hint}")
    if not pretrained:
        return InputError(f"timm cannot make the network {name!r} ({reason}): choose another")
    if "pretrained" in reason.lower() and "exist" in reason.lower():
        return InputError(
            f"timm has no pretrained weights for {name!r}: give a file (weights='FILE.safetensors')"
        )
    return InputError(
        f"the weights of timm's {name!r} could not be downloaded ({reason}): check the internet connection "
        "and the name, or give a file (weights='FILE.safetensors')"
    )


def _fill(torch: Any, module: Any, path: Path, model: str) -> None:
    """Fill a network with the tensors of a file. Every weight of the network must be there."""
    tensors = _read(torch, path)
    wanted = module.state_dict()
    for name, value in wanted.items():
        found = tensors.get(name)
        if found is None:
            raise InputError(f"{path} lacks {name} of {model}: give a file of this network")
        if tuple(found.shape) != tuple(value.shape):
            raise InputError(
                f"{path}: {name} has shape {tuple(found.shape)}, and {model} needs {tuple(value.shape)}: "
                "give a file of this network"
            )
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise InputError(f"{path}: {name} holds numbers that are not finite: give another file")
    module.load_state_dict({name: tensors[name] for name in wanted})
    unused = len(tensors.keys() - wanted.keys())
    if unused:
        logger.info("%s: %d tensors are not used, such as those of the classifier", path, unused)


def _read(torch: Any, path: Path) -> dict[str, Any]:
    """Read tensors by name. No code of the file runs."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(os.fspath(path))
        else:
            content = torch.load(os.fspath(path), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # pickle, zipfile and safetensors raise many types of errors
        reason = one_line(error) or type(error).__name__
        if re.search("global|reduce|class", reason.rpartition("WeightsUnpickler error:")[2], re.IGNORECASE):
            raise InputError(
                f"{path} holds more than tensors, which could run code, so it was not read: save its "
                "state_dict, or convert it to safetensors"
            ) from error
        raise InputError(f"{path} cannot be read as weights ({reason[:120]}): copy it again") from error
    for key in ("state_dict", "model", "module", "teacher"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not tensors by name: save a state_dict")
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    for prefix in ("module.", "backbone."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
