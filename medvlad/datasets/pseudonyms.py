"""File names and patients in reports, in digests that only who has the key can check.

A pseudonym is a keyed BLAKE2b of the name, 64 bits of it::

    image-6e0fd3b29a41c875      key, person = "image",   the path as it was given
    patient-c01de5fb8872a394    key, person = "patient", the group

The key is 32 random bytes, new for each run, and is written nowhere unless it is asked for: then into a file
with the table of what each pseudonym stands for. Without the key nobody can try names until one fits, as with
a plain digest; and two runs name the same image differently.
"""

from __future__ import annotations

import hashlib
import json
import numbers
import os
import secrets
from pathlib import Path
from typing import Any

from medvlad._util.atomic_file import new_file
from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder

__all__ = ["Pseudonyms", "anonymise_results", "anonymise_warning", "is_pseudonym"]

_LEFT_OUT = "(left out)"
_KEY_BYTES = 32
_KINDS = ("images", "patients")


class Pseudonyms:
    """Stand-ins for names, and in memory what each stands for.

    Parameters
    ----------
    key : bytes or None
        32 of them. None: random ones.

    Raises
    ------
    InputError
        If the key is of another length.

    Examples
    --------
    >>> from medvlad.datasets.pseudonyms import Pseudonyms
    >>> names = Pseudonyms(bytes(32))
    >>> names.image("scans/smith_john.dcm")
    'image-5b44e496740fb0c5'
    >>> names.original("image-5b44e496740fb0c5")
    'scans/smith_john.dcm'
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(_KEY_BYTES) if key is None else key
        if len(self._key) != _KEY_BYTES:
            raise InputError(f"the key of pseudonyms has {_KEY_BYTES} bytes, not {len(self._key)}")
        self._names: dict[str, dict[str, str]] = {kind: {} for kind in _KINDS}

    def image(self, name: str | os.PathLike[str]) -> str:
        """Return what stands for an image."""
        return self._pseudonym("image", os.fspath(name))

    def patient(self, name: str) -> str:
        """Return what stands for a patient."""
        return self._pseudonym("patient", name)

    def original(self, pseudonym: str) -> str | None:
        """Return the name that a pseudonym stands for; None where it has not been given."""
        found = [names[pseudonym] for names in self._names.values() if pseudonym in names]
        return found[0] if found else None

    def reason(self, text: str, name: str) -> str:
        """Return why the image `name` was left out, with its pseudonym in place of it.

        The reason of a copy that was read only once is the other's, and names that: nothing of it is kept.
        """
        if name not in text and repr(name) not in text:
            return "it cannot be read"
        text = text.replace(repr(name), self.image(name)).replace(name, self.image(name))
        parts = (Path(name).name, Path(name).stem.partition("#")[0])
        # A file of one character is in every sentence; then nothing of it is kept, as nothing is sure.
        return "it cannot be read" if any(part and part in text for part in parts) else text

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write key and table, for this user's eyes only.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        text = json.dumps({"key": self._key.hex(), **self._names}, indent=2)
        with new_file(path, "key") as file:
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o600)
            file.write(f"{text}\n".encode("utf-8", "surrogateescape"))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Pseudonyms:
        """Read key and table, to name the same images in the same way again.

        Raises
        ------
        InputError
            If it is no file of :meth:`write`, or cannot be read.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            names = cls(bytes.fromhex(found["key"]))
            for kind in _KINDS:
                names._names[kind].update({str(one): str(name) for one, name in found[kind].items()})
        except OSError as error:
            raise InputError(
                f"the key of pseudonyms {path} cannot be read ({error.strerror or error}): check the path"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} holds no key of pseudonyms: name a new file, or the right one"
            ) from error
        return names

    def _pseudonym(self, kind: str, name: str) -> str:
        content = name.encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(content, digest_size=8, key=self._key, person=kind.encode()).hexdigest()
        pseudonym = f"{kind}-{digest}"
        self._names[f"{kind}s"][pseudonym] = name
        return pseudonym


def is_pseudonym(name: str) -> bool:
    """Whether a name of an image looks like one of :class:`Pseudonyms`."""
    kind, _, digest = name.partition("-")
    return kind == "image" and len(digest) == 16 and set(digest) <= set("0123456789abcdef")


def anonymise_results(results: dict[str, Any], names: Pseudonyms) -> None:
    """Take file names and patients out of the results of an evaluation, in place.

    Skipped images get pseudonyms. The file of weights keeps its name without its folder; the folder of the
    data set is left out. Names of classes stay.

    Parameters
    ----------
    results : dict
        Of :class:`medvlad.experiment.Evaluation`.
    names : Pseudonyms
    """
    results["skipped"] = sorted(
        (
            {"image": names.image(one["image"]), "reason": names.reason(one["reason"], one["image"])}
            for one in results["skipped"]
        ),
        key=lambda one: one["image"],
    )
    settings = results["settings"]
    settings["weights"] = Path(settings["weights"]).name
    results["dataset"]["root"] = None


def anonymise_warning(message: str, arguments: Any, dataset: ImageFolder, names: Pseudonyms) -> str:
    """Fill a warning in, with pseudonyms for patients; of other texts in it only names of classes stay."""
    groups = set() if dataset.groups is None else set(dataset.groups.tolist())
    known = set(dataset.class_names)

    def shown(value: Any) -> Any:
        if isinstance(value, numbers.Number):
            return value
        text = str(value)
        if text in groups:
            return names.patient(text)
        return text if set(text.split(", ")) <= known else _LEFT_OUT

    filled = tuple(map(shown, arguments if isinstance(arguments, tuple) else ()))
    return message % filled if filled else message
