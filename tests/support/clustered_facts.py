"""Facts about images of patients in which nothing is wrong: what an audit finds there is a false positive.

Every fact (pixels, corners, sizes, bytes, border, box) has a part that the images of a patient share, and
does not depend on class or part. Patients are divided into the parts at random.
"""

import numpy as np

from medvlad.audit.finding import ReadImages
from medvlad.audit.images import CORNER_SIDE, THUMB_SIDE, Box, ImageFacts


def of_patients(rng, n_patients, n_values, spread, shape):
    """Return numbers (n, *shape): a part of each patient and a part of each image, both of this spread."""
    patient = np.repeat(np.arange(n_patients), n_values)
    return spread * (rng.normal(size=(n_patients, *shape))[patient] + rng.normal(size=(len(patient), *shape)))


def clustered(rng, n_patients, n_images, n_classes=2):
    """Return the images, their facts and their units. A patient has one class."""
    patient = np.repeat(np.arange(n_patients), n_images)
    n = len(patient)
    labels = rng.permutation(np.arange(n_patients) % n_classes)[patient]
    parts = np.where(rng.random(n_patients) < 0.3, "test", "train")[patient]

    def grey(shape):
        return np.clip(128 + of_patients(rng, n_patients, n_images, 30, shape), 0, 255).astype(np.uint8)

    thumbs = grey((THUMB_SIDE, THUMB_SIDE, 3))
    corners = grey((4, CORNER_SIDE, CORNER_SIDE, 3))
    contrasts = of_patients(rng, n_patients, n_images, 20, (4, 3)).astype(np.float32)
    sizes = np.exp(6 + of_patients(rng, n_patients, n_images, 0.02, (2,))).astype(int)
    n_bytes = np.exp(10 + of_patients(rng, n_patients, n_images, 0.3, ())).astype(int)
    has_border, has_box = (of_patients(rng, n_patients, n_images, 1, (2,)) > 0.8).T
    facts = [
        ImageFacts(
            file_digest=bytes([0]) + i.to_bytes(15, "big"),
            pixel_digest=bytes([1]) + i.to_bytes(15, "big"),
            width=int(sizes[i, 0]),
            height=int(sizes[i, 1]),
            n_bytes=int(n_bytes[i]),
            kind="PNG",
            mode="RGB",
            bits=8,
            is_grey=False,
            quantisation=(),
            thumb=thumbs[i],
            corners=corners[i],
            contrasts=contrasts[i],
            border=(0.05 * has_border[i], 0.0, 0.0, 0.0),
            border_colour="black",
            boxes=(Box("white", "top left", 0.05),) if has_box[i] else (),
        )
        for i in range(n)
    ]
    names = [f"patient{p}_{i}" for i, p in enumerate(patient)]
    classes = [chr(97 + k) for k in range(n_classes)]
    return ReadImages(names, labels, classes, parts, patient.astype(str)), facts, patient


def clustered_vectors(rng, n_patients, n_images, n_classes, *, n_features=64, distance=4.0):
    """Return vectors, right labels and units. Centres of classes are about `distance` spreads apart.

    A patient has one class. Half the variance of a vector is of the patient, half of the image.
    """
    patient = np.repeat(np.arange(n_patients), n_images)
    labels = rng.permutation(np.arange(n_patients) % n_classes)[patient]
    centres = rng.normal(size=(n_classes, n_features))
    centres *= distance / np.sqrt(2) / np.linalg.norm(centres, axis=1, keepdims=True)
    spread = of_patients(rng, n_patients, n_images, np.sqrt(0.5), (n_features,))
    mean = 5 * np.eye(1, n_features)  # as of mean descriptors, which are not negative
    return (mean + centres[labels] + spread).astype(np.float32), labels, patient
