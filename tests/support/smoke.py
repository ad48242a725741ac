"""Check an installed wheel outside the checkout: `python tests/support/smoke.py [LEVEL]`.

With `qemu-x86_64 -cpu Nehalem` it finds instructions that processors without AVX do not have.
"""

import sys

import numpy as np

import medvlad as mv
from medvlad.backends import native, reference


def main(level=None):
    """Encode and classify on the native backend, and compare with the reference."""
    if level is not None and native.level() != level:
        raise SystemExit(f"the level is {native.level()}, not {level}")
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(40, 12, 32)), 0).astype(np.float32)
    labels = np.arange(40) % 2
    x[labels == 1, :6, :8] += 1.5  # half of the descriptors of one class
    descriptors = mv.Descriptors.from_array(x)
    np.testing.assert_array_equal(
        native.assign(descriptors.values, x[0], n_threads=2), reference.assign(descriptors.values, x[0])
    )
    soft = mv.VLAD(4, assignment="soft", random_state=0)
    for encoder in (mv.VLAD(4, random_state=0), soft, mv.GlobalPool()):
        vectors = encoder.fit_transform(descriptors)
        if not mv.WideLinearSVC().fit(vectors, labels).score(vectors, labels) > 0.9:
            raise SystemExit(f"{encoder} does not tell apart what it should")
    layers = [(rng.normal(size=(3, 3, 3, 8)).astype(np.float32), np.zeros(8, np.float32), True), None]
    maps = native.convnet(layers, 3).run(rng.random((1, 12, 12, 3)).astype(np.float32), 1)
    if maps.shape != (1, 6, 6, 8) or not np.isfinite(maps).all():
        raise SystemExit("the convolutions are wrong")
    sys.stdout.write(f"medvlad {mv.__version__}, native: {native.level()}: right\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
