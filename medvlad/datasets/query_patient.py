"""Find the patients that a single image may be of, to compare with those of the training images."""

from __future__ import annotations

import os
import re

from medvlad.datasets.listing import ListedImage
from medvlad.datasets.patients import known_patient, searched_patient
from medvlad.images.frames import split_frame
from medvlad.images.inspect_file import inspect_file

__all__ = ["possible_patients"]


def possible_patients(image: str | os.PathLike[str], pattern: re.Pattern[str] | None) -> frozenset[str]:
    """Return the names that a data set may give to the patient of an image.

    Parameters
    ----------
    image : path
        A file or ``FILE#N``.
    pattern : compiled regular expression or None
        As in :func:`medvlad.load_image_folder`. None: use DICOM headers and the known patterns of names.

    Returns
    -------
    frozenset of str
        Empty: neither name nor header tells the patient.
    """
    path = split_frame(image)[0]
    if pattern is not None:
        found = searched_patient(path.as_posix(), pattern)
        return frozenset(() if not found else (found,))
    inspected = inspect_file(path)
    listed = ListedImage(None, "", (path.name,), path, path.name, inspected.kind, inspected.identity)
    identity = inspected.identity
    names = [known_patient(listed)]
    if identity is not None:
        names += [identity.written, identity.patient, identity.study]
    return frozenset(name for name in names if name)
