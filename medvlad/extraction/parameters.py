"""Check the parameters of CNNDescriptors that need no network."""

from __future__ import annotations

from typing import Any

from medvlad._util.choices import Dtype, OnError, Output, words_of
from medvlad._util.validate import InputError, check_choice, check_positive_int
from medvlad.extraction.networks import check_network
from medvlad.extraction.scales import check_scales
from medvlad.images.colour_profile import COLOUR_PROFILES
from medvlad.images.damage import ON_DAMAGE
from medvlad.images.picture import DECODE
from medvlad.images.resize import RESIZE_FILTERS

__all__ = ["check_parameters"]


def check_parameters(features: Any) -> tuple[int, ...]:
    """Check the parameters of a CNNDescriptors, and return its scales.

    It takes no time, so call it before a network is started.

    Raises
    ------
    InputError
    """
    check_network(
        features.model,
        features.layer,
        features.weights,
        preprocess=features.preprocess,
        prefix_tokens=features.prefix_tokens,
    )
    if features.side is not None:
        check_positive_int(features.side, "side")
    scales = check_scales(features.scales)
    check_choice(features.dtype, "dtype", words_of(Dtype))
    check_choice(features.output, "output", words_of(Output))
    if features.store is not None and features.output == "gpu":
        raise InputError("a store is not on the GPU: use output='host' or output='store', or no store")
    if features.store is None and features.output == "store":
        raise InputError("output='store' needs a store: CNNDescriptors(..., store='FOLDER')")
    check_choice(features.resize, "resize", RESIZE_FILTERS)
    check_choice(features.on_error, "on_error", words_of(OnError))
    check_choice(features.on_damage, "on_damage", ON_DAMAGE)
    check_choice(features.colour_profile, "colour_profile", COLOUR_PROFILES)
    check_choice(features.decode, "decode", DECODE)
    if features.batch_size is not None:
        check_positive_int(features.batch_size, "batch_size")
    return scales
