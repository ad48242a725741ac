"""Small models with every kind of step, and damaged copies of a model file."""

import json

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.pipeline import Pipeline

from medvlad import CNNDescriptors, WideLinearSVC
from medvlad.encoders.recipe import Recipe, encoder_steps

RECIPES = {
    "avg": ("avg", Recipe()),
    "vlad": ("vlad2", Recipe(power=0.5)),
    "all of it": (
        "vlad2",
        Recipe(
            descriptor_norm=True,
            n_components=5,
            residual_norm=True,
            intra_norm=True,
            vocabularies=2,
            reduce=4,
            whiten=True,
        ),
    ),
    "side by side": ("avg+vlad2", Recipe(power=0.5)),
    "other encoders": ("sum+fisher2+bow3", Recipe()),
    "second order": ("second-order", Recipe(n_components=4)),
    "soft": ("vlad3", Recipe(assignment="soft", n_nearest=2, mass_norm=True)),
    "local axes": ("vlad2", Recipe(n_components=5, local_axes=True)),
    "L2 alone": ("max", Recipe(descriptor_norm=True)),
    "reduced": ("avg", Recipe(reduce=3)),
    "tiles": ("avg+vlad2", Recipe(tiles=((1, 1), (2, 2)), local_axes=True, n_components=5)),
}

#: The grid of MobileNetV2, for tiles.
TILING = {"grids": [(7, 7)], "mirrored": (False,)}


def network(weights):
    return CNNDescriptors("mobilenetv2", "out_relu", weights=weights)


def images():
    """Return nine images of noise."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(9)]


def fitted_model(recipe, features, arrays):
    """Return a fitted pipeline of one of RECIPES for three classes."""
    name, recipe = RECIPES[recipe]
    encoder = recipe.encoder(name, **(TILING if recipe.tiles else {}))
    steps = [("features", features), *encoder_steps(encoder), ("classify", WideLinearSVC())]
    return Pipeline(steps).fit(arrays, ["a", "b", "c"] * 3)


def contents(path):
    """Return metadata and arrays. The digest is left out, because anybody can compute one."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["medvlad"])
        header.pop("digest", None)
        return {"medvlad": json.dumps(header)}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def altered(path, **changes):
    """Return the model at `path` with some arrays changed, as bytes. None removes an array."""
    metadata, arrays = contents(path)
    kept = {name: value for name, value in (arrays | changes).items() if value is not None}
    return save(kept, metadata=metadata)


def with_text(path, metadata):
    """Return the model at `path` with other metadata, as bytes."""
    return save(contents(path)[1], metadata=metadata)


def with_header(path, **changes):
    """Return the model at `path` with some entries of its header changed, as bytes."""
    header = json.loads(contents(path)[0]["medvlad"]) | changes
    return with_text(path, {"medvlad": json.dumps(header)})


def longer(path):
    """Return the model at `path` with an array that is longer than the file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"shape":[3]', b'"shape":[9]')
    return data[:8] + header + data[8 + size :]


def steps_of(path):
    return json.loads(contents(path)[0]["medvlad"])["steps"]


def centers_of(path):
    return [name for name in contents(path)[1] if name.endswith("cluster_centers_")]
