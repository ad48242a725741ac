"""Read image files and arrays as RGB pixels.

In: a path (photographs, DICOM, NIfTI; ``FILE#N`` is image N of a file) or an array. Out: (H, W, 3) uint8.
"""

from medvlad.images.frames import split_frame
from medvlad.images.read import (
    IMAGE_SUFFIXES,
    RESIZE_FILTERS,
    is_image_name,
    list_frames,
    load_image,
    png,
    resize_square,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "RESIZE_FILTERS",
    "is_image_name",
    "list_frames",
    "load_image",
    "png",
    "resize_square",
    "split_frame",
]
