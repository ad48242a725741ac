"""The files in which Keras publishes the ImageNet weights of VGG.

Keras downloads them, and compares their MD5 with the one in its source. A copy that was brought to a machine
without internet is compared here in the same way. Keras publishes no SHA-256 of these files. One of your own
can be given after the name of any file of weights: ``FILE#sha256=HEX``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from medvlad._util.validate import InputError

__all__ = ["cached_file", "check_published", "is_published"]

#: File name -> MD5, from keras.applications.
_MD5 = {
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5": "6d6bbae143d832006294945121d1f1fc",
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5": "253f8cb515780f3b799900260a226db6",
}


def cached_file(network: str) -> Path:
    """Return the file that Keras downloads for "vgg16" or "vgg19". It may not exist."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return home / "models" / f"{network}_weights_tf_dim_ordering_tf_kernels_notop.h5"


def is_published(path: Path) -> bool:
    """Return whether a file has the name and the MD5 of a published one."""
    return path.name in _MD5 and _md5(path) == _MD5[path.name]


def check_published(path: Path) -> None:
    """Raise InputError if a file has the name of a published one, and other content."""
    if path.name in _MD5 and not is_published(path):
        raise InputError(
            f"weights {path} are not what Keras publishes under this name (MD5 {_md5(path)}, expected "
            f"{_MD5[path.name]}): copy the file again, or give weights of your own another name"
        )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
