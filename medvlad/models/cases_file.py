"""The training images of a model for the search of similar cases, in a file beside the model.

``MODEL.cases`` is in the safetensors format. It holds one array, the encoded training images, and a text
named "medvlad-cases" in its metadata. The text is JSON::

    format, format_version
    model      digest of the model that the vectors belong to; with another model the file is refused
    names      names of the training images, or the beginning of the SHA-256 of their content
    labels     their classes
    patients   their patients, or null
    pattern    regular expression that tells the patient from a file name, or null

The array is mapped into memory, so that opening a large file takes no time.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from medvlad._util.object_path import ObjectPath, location, save_bytes
from medvlad._util.object_storage import remove
from medvlad._util.validate import InputError
from medvlad.decisions.similar import SimilarCases
from medvlad.images.hashed_file import image_key
from medvlad.models.model_file import digest_of

__all__ = ["MAX_BYTES", "Cases", "cases_path", "digest_names", "load_cases", "remove_cases", "save_cases"]

#: Largest array that 'train' keeps unless it is told to, in bytes.
MAX_BYTES = 512 << 20
_FORMAT, _FORMAT_VERSION = "medvlad-cases", 1
_MAX_HEADER = 100 << 20
_DIGITS = 16


@dataclass(frozen=True)
class Cases:
    """Training images of a model, ready for the search.

    Attributes
    ----------
    index : SimilarCases
    pattern : str or None
        Regular expression that tells the patient from a file name. None: the usual patterns.
    """

    index: SimilarCases
    pattern: str | None = None


def cases_path(model: str | os.PathLike[str]) -> Path:
    """Return the file beside a model that holds its training images."""
    path = location(model, "the model")
    return path.with_name(f"{path.name}.cases")


def digest_names(images: Sequence[Any]) -> list[str]:
    """Return names for images that tell nothing but their content: the beginning of its SHA-256."""
    known: dict[Path, str] = {}
    return [image_key(image, known)[:_DIGITS] for image in images]


def save_cases(cases: Cases, model: str | os.PathLike[str]) -> Path:
    """Write the training images of a model beside it.

    Parameters
    ----------
    cases : Cases
    model : path-like
        The model file, which exists.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        If the model cannot be read, or the file cannot be written.
    """
    index = cases.index
    header = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "model": digest_of(model),
        "names": index.names_,
        "labels": index.labels_,
        "patients": index.patients_,
        "pattern": cases.pattern,
    }
    path = cases_path(model)
    content = save({"vectors": np.asarray(index.vectors_)}, metadata={_FORMAT: json.dumps(header)})
    save_bytes(path, content, "file of training images")
    return path


def remove_cases(model: str | os.PathLike[str]) -> None:
    """Remove the training images of an earlier model of this name."""
    path = cases_path(model)
    if path.is_file() and _is_cases(path):
        remove(path.url) if isinstance(path, ObjectPath) else path.unlink(missing_ok=True)


def load_cases(model: str | os.PathLike[str]) -> Cases:
    """Open the training images of a model.

    Parameters
    ----------
    model : path-like
        The model file. Its companion is ``MODEL.cases``.

    Returns
    -------
    Cases

    Raises
    ------
    InputError
        If the file is missing, damaged, or belongs to another model.
    """
    path = cases_path(model)
    if not path.is_file():
        raise InputError(
            f"there is no file {path} of training images: train the model again, or copy the file to "
            "the model"
        )
    digest = digest_of(model)
    try:
        header, vectors = _read(path)
        index = SimilarCases()
        texts = [header[name] for name in ("names", "labels")]
        if header["model"] == digest:
            patients = [None if one is None else str(one) for one in header["patients"]]
            index.fit(vectors, texts[0], texts[1], patients)
        pattern = header["pattern"]
        cases = Cases(index, None if pattern is None else str(pattern))
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InputError(
            f"{path} is damaged or no file of training images: copy it again, or train the model again"
        ) from error
    if header["model"] != digest:
        raise InputError(
            f"{path} belongs to another model than {model}: copy the file that was written with the model, "
            "or train it again"
        )
    return cases


def _is_cases(path: Path) -> bool:
    with path.open_ranges() if isinstance(path, ObjectPath) else path.open("rb") as file:
        return _FORMAT.encode() in file.read(256)


def _read(path: Path) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.float32]]]:
    """Read the header and map the array. Raise ValueError or another error if the file is damaged.

    An object is read into memory.
    """
    content = path.read_bytes() if isinstance(path, ObjectPath) else b""
    size = len(content) or path.stat().st_size
    with io.BytesIO(content) if content else path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _MAX_HEADER):
            raise ValueError("its header is cut")
        outer = json.loads(file.read(length))
    header = json.loads(outer["__metadata__"][_FORMAT])
    if header["format"] != _FORMAT or header["format_version"] != _FORMAT_VERSION:
        raise ValueError("it has another format")
    described = outer["vectors"]
    n, width = map(int, described["shape"])
    begin, end = map(int, described["data_offsets"])
    start = 8 + length + begin
    # A map of a file that is cut would end the process with SIGBUS.
    if (
        described["dtype"] != "F32"
        or min(n, width) < 1
        or end - begin != 4 * n * width
        or 8 + length + end > size
    ):
        raise ValueError("its array is cut")
    if content:
        return header, np.frombuffer(content, "<f4", n * width, start).reshape(n, width)
    return header, np.memmap(path, np.dtype("<f4"), "r", offset=start, shape=(n, width))
