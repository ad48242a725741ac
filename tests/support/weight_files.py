"""Weights of a Keras network in each format of files that users have."""

import numpy as np
import pytest


def save(network, path):
    """Write `network` in the format of `path`'s name."""
    if path.name.endswith(".npz"):
        tensors = {f"{x.name}/{v.name}": v.numpy() for x in network.layers for v in x.weights}
        np.savez(path, **tensors)
    elif path.name.endswith((".weights.h5", ".keras")):
        (network.save_weights if path.name.endswith(".h5") else network.save)(path)
    else:
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, network)
