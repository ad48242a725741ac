"""Write model_format_N.medvlad beside this file. Run it once if the format changes, and keep the file.

python tests/support/model_fixture.py
"""

from pathlib import Path

import numpy as np
from sklearn.pipeline import Pipeline

from medvlad import CNNDescriptors, Descriptors, save_model
from medvlad.decisions import CalibratedSVC
from medvlad.encoders.recipe import Recipe, encoder_steps
from medvlad.models.model_file import FORMAT_VERSION


def write(path):
    """Save a model with most kinds of steps. Its card holds descriptors and the decisions on them."""
    rng = np.random.default_rng(0)
    x = Descriptors.from_array(rng.integers(-8, 9, (9, 7, 6)).astype(np.float32) / 4)
    recipe = Recipe(
        descriptor_norm=True,
        n_components=4,
        assignment="soft",
        n_nearest=2,
        mass_norm=True,
        reduce=5,
        whiten=True,
    )
    steps = [*encoder_steps(recipe.encoder("avg+vlad3+fisher2+bow3")), ("classify", CalibratedSVC(folds=3))]
    fitted = Pipeline(steps).fit(x, ["a", "b", "c"] * 3)
    features = CNNDescriptors("mobilenetv2", "out_relu", weights="imagenet", scales=(0, 1), mirror=True)
    features.weights_fingerprint_ = "0" * 64
    card = {
        "descriptors": x.values.reshape(9, 7, 6).tolist(),
        "decision": fitted.decision_function(x).tolist(),
        "decided": fitted.predict(x).tolist(),
    }
    save_model(Pipeline([("features", features), *steps]), path, card=card)


if __name__ == "__main__":
    write(Path(__file__).with_name(f"model_format_{FORMAT_VERSION}.medvlad"))
