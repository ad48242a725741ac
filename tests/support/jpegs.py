"""Pictures as JPEG, and ways to damage their data."""

import io

import numpy as np
from PIL import Image

START_OF_SCAN = b"\xff\xda"


def picture(rng, height=96, width=120):
    """Return a smooth picture with some noise, as a photograph has."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / rng.uniform(5, 30) + rng.uniform(0, 6)) * np.cos(y / 11) for _ in range(3)]
    noise = rng.normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def jpeg(pixels, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **{"quality": 85} | options)
    return buffer.getvalue()


def first_data(data):
    """Return the place of the first byte of entropy-coded data."""
    at = data.index(START_OF_SCAN) + 2
    return at + int.from_bytes(data[at : at + 2], "big")


def overwritten(data, rng, n=32):
    """Return a JPEG file with `n` random bytes somewhere in its data."""
    at = int(rng.integers(first_data(data), len(data) - 2 - n))
    return data[:at] + rng.integers(0, 256, n, dtype=np.uint8).tobytes() + data[at + n :]


def decoded(data):
    """Return what Pillow makes of a file, or None if it refuses it."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, SyntaxError):
        return None


def surely_damaged(pixels, rng, **options):
    """Return a JPEG file that Pillow reads without a word, as other pixels than it should."""
    from medvlad.images.damage import jpeg_damage

    sound = jpeg(pixels, **options)
    expected = decoded(sound).astype(int)
    while True:
        data = overwritten(sound, rng)
        found = decoded(data)
        if found is not None and np.abs(found - expected).mean() > 5 and jpeg_damage(data):
            return data
