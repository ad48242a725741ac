"""Image files that Pillow, pydicom and nibabel test themselves with.

Each image is right, which another decoder confirms where one reads it, or it is refused for a true reason.
tifffile publishes no image files.
"""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.other_decoders import decode_dicom, decode_nifti, decode_pixels, kind_of
from support.published_files import PROJECTS, published_files

from medvlad import InputError
from medvlad.images.frames import split_frame
from medvlad.images.read import list_frames, load_image

pytestmark = pytest.mark.slow

RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"
LOSSY = 3  # grey levels by which decoders of JPEG differ
MOST_FRAMES = 6  # of one file

#: Reasons that the content of a file shows: words of the message -> whether they are true.
TRUE_REASONS = {
    "is not an image or its beginning is damaged": lambda path: _undecodable(path),
    "NaN or infinite": lambda path: not np.isfinite(nibabel_values(path)).all(),
    "Invalid value for VR IS": lambda path: b"\x00IS\x02\x001A" in path.read_bytes(),
    "image file is truncated": lambda path: not path.read_bytes().rstrip(b"\0").endswith(ENDS),
    "holds several frames of an animation": lambda path: with_pillow(path, lambda image: image.n_frames > 1),
    "an image needs at least 2 x 2": lambda path: with_pillow(path, lambda image: min(image.size) < 2),
    "more pixels than are safe": lambda path: with_pillow(path, lambda image: np.prod(image.size) > 89e6),
    "is empty (0 bytes)": lambda path: path.stat().st_size == 0,
}


ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")  # of JPEG and PNG


def nibabel_values(path):
    import nibabel

    return nibabel.load(path).get_fdata()


def _undecodable(path):
    kind = kind_of(path)
    return kind is None or other_decoder(path, kind, None) is None


def with_pillow(path, answer):
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            return answer(image)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def other_decoder(path, kind, frame):
    """Return what another decoder makes of an image, and None if it cannot read it."""
    try:
        if kind == "DICOM":
            return decode_dicom(path, frame)
        if kind == "NIfTI":
            return decode_nifti(path, frame)
        return decode_pixels(path, kind, frame)
    except Exception:
        return None


def outcome(image):
    """Return "confirmed", "read", "refused", or a sentence that says what is wrong."""
    path, frame = split_frame(image)
    kind = kind_of(path)
    try:
        pixels = load_image(image)
    except InputError as error:
        message = str(error)
        reasons = [is_true for words, is_true in TRUE_REASONS.items() if words in message]
        if reasons and not any(is_true(path) for is_true in reasons):
            return f"refused for a reason that is not true: {message}"
        if not reasons and other_decoder(path, kind, frame) is not None:
            return f"refused, and another decoder reads it: {message}"
        return "refused"
    expected = other_decoder(path, kind, frame)
    if expected is None:
        return "read"
    if expected.shape != pixels.shape:
        return f"its shape is {pixels.shape}, another decoder's {expected.shape}"
    difference = int(np.abs(pixels.astype(int) - expected).max())
    return "confirmed" if difference <= LOSSY else f"differs by {difference} from another decoder"


def frames_of(path):
    frames = list_frames(path)
    return frames if len(frames) <= MOST_FRAMES else [*frames[: MOST_FRAMES - 1], frames[-1]]


@pytest.mark.parametrize("project", PROJECTS)
def test_published_files_are_right_or_refused_for_a_true_reason(project, tmp_path):
    for module in ("pydicom", "nibabel", "tifffile", "imagecodecs", "SimpleITK"):
        pytest.importorskip(module)
    logging.getLogger("medvlad").setLevel(logging.ERROR)
    root, files = published_files(project, tmp_path)
    counts, wrong = {}, {}
    for path in files:
        for image in frames_of(path):
            found = outcome(image)
            if found in ("confirmed", "read", "refused"):
                counts.setdefault(kind_of(path) or "another format", Counter())[found] += 1
            else:
                wrong[str(image.relative_to(root))] = found
    for kind, count in sorted(counts.items()):
        print(f"| {project} | {kind} | {count['confirmed']} | {count['read']} | {count['refused']} |")
    for name, what in wrong.items():
        print(name, what)
    assert wrong == {}
