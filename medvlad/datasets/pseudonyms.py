"""Replace file names and patients in reports by pseudonyms.

A pseudonym is the first 64 bits of a keyed BLAKE2b digest of the name::

    image-6e0fd3b29a41c875      key, person = "image",   the path as it was given
    patient-c01de5fb8872a394    key, person = "patient", the group
    site-52f1c5ae2bd50f71       key, person = "site",    the site, such as a hospital

The key is 32 random bytes, new for each run. It is not written, unless a file for it is named. That file also
holds a table of the names behind the pseudonyms.

A plain digest could be reversed by trying names until one fits. Without the key this is impossible. Two runs
with different keys give the same image different pseudonyms.
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
from medvlad._util.network_name import without_folder
from medvlad._util.validate import InputError, check_local
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.listing import NamesNobody

__all__ = ["DAMAGED", "Pseudonyms", "anonymise_results", "anonymise_warning", "is_pseudonym"]

DAMAGED = "its JPEG data is damaged"
"""Reason of a damaged image, without names."""

_LEFT_OUT = "(left out)"
_KEY_BYTES = 32
_KINDS = ("images", "patients", "sites")


class Pseudonyms:
    """Pseudonyms for names of images and patients, and a table of the names behind them.

    Parameters
    ----------
    key : bytes or None, default None
        32 bytes. None: random ones.

    Raises
    ------
    InputError
        If the key has another length.

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
            raise InputError(
                f"the key of pseudonyms must have {_KEY_BYTES} bytes, got {len(self._key)}: use a file that "
                "Pseudonyms.write made"
            )
        self._names: dict[str, dict[str, str]] = {kind: {} for kind in _KINDS}

    def image(self, name: str | os.PathLike[str]) -> str:
        """Return the pseudonym of an image, and add it to the table."""
        return self._pseudonym("image", os.fspath(name))

    def patient(self, name: str) -> str:
        """Return the pseudonym of a patient, and add it to the table."""
        return self._pseudonym("patient", name)

    def site(self, name: str) -> str:
        """Return the pseudonym of a site, and add it to the table."""
        return self._pseudonym("site", name)

    def original(self, pseudonym: str) -> str | None:
        """Return the name behind a pseudonym. None: the table does not hold it."""
        found = [names[pseudonym] for names in self._names.values() if pseudonym in names]
        return found[0] if found else None

    def reason(self, text: str, name: str, otherwise: str = "it cannot be read") -> str:
        """Return why an image was left out or is damaged, with its pseudonym instead of its name.

        Parameters
        ----------
        text : str
            Reason, as an error gives it.
        name : str
            Path of the image.
        otherwise : str, default="it cannot be read"
            Reason without names.

        Returns
        -------
        str
            `otherwise` if `text` does not hold the whole name, or still holds a part of it after the
            replacement. The former happens with copies of an image: only one is read, and the reason names
            that one.
        """
        if name not in text and repr(name) not in text:
            return otherwise
        text = text.replace(repr(name), self.image(name)).replace(name, self.image(name))
        parts = (Path(name).name, Path(name).stem.partition("#")[0])
        # A name of one letter is found in any sentence. Then the whole reason is dropped, to be safe.
        return otherwise if any(part and part in text for part in parts) else text

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the key and the table to a file that only this user can read.

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
        """Read a key and its table, so that the same images get the same pseudonyms again.

        Raises
        ------
        InputError
            If the file cannot be read, or was not made by :meth:`write`.
        """
        file = check_local(path, "the key of pseudonyms")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            names = cls(bytes.fromhex(found["key"]))
            for kind in _KINDS:
                # Keys of earlier versions have no sites.
                known = found.get(kind, {}) if kind == "sites" else found[kind]
                names._names[kind].update({str(one): str(name) for one, name in known.items()})
        except OSError as error:
            raise InputError(
                f"the key of pseudonyms {path} cannot be read ({error.strerror or error}): check the path"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} does not hold a key of pseudonyms: name a new file, or one that was made for keys"
            ) from error
        return names

    def _pseudonym(self, kind: str, name: str) -> str:
        content = name.encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(content, digest_size=8, key=self._key, person=kind.encode()).hexdigest()
        pseudonym = f"{kind}-{digest}"
        self._names[f"{kind}s"][pseudonym] = name
        return pseudonym


def is_pseudonym(name: str) -> bool:
    """Return whether the name of an image has the form of a pseudonym."""
    kind, _, digest = name.partition("-")
    return kind == "image" and len(digest) == 16 and set(digest) <= set("0123456789abcdef")


def anonymise_results(results: dict[str, Any], names: Pseudonyms) -> None:
    """Replace file names in the results of an evaluation, in place.

    Skipped and damaged images and examples of patients get pseudonyms. The file of weights and an ONNX file
    keep their names but not their folders. The folder of the data set becomes None. Sites get pseudonyms,
    also as names of folds. Names of classes and columns stay.

    Parameters
    ----------
    results : dict
        Results of :class:`medvlad.experiment.Evaluation`.
    names : Pseudonyms
    """
    for kind, otherwise in (("skipped", "it cannot be read"), ("damaged", DAMAGED)):
        results[kind] = sorted(
            (
                {
                    "image": names.image(one["image"]),
                    "reason": names.reason(one["reason"], one["image"], otherwise),
                }
                for one in results[kind]
            ),
            key=lambda one: one["image"],
        )
    settings = results["settings"]
    if settings["weights"] is not None:  # feature files have no weights
        settings["weights"] = Path(settings["weights"]).name
    if settings.get("table"):
        settings["table"]["image_root"] = None
    settings["model"] = without_folder(settings["model"])
    dataset = results["dataset"]
    dataset["root"] = None
    if dataset.get("sites") is not None:
        dataset["sites"] = {names.site(site): n for site, n in dataset["sites"].items()}
    for one in results["results"]:
        for fold in one.get("per_fold", []):
            if not fold["fold"].isdecimal() or settings.get("group_by") == "site":
                fold["fold"] = names.site(fold["fold"])
    dataset["patient_examples"] = [
        {"image": names.image(one["image"]), "patient": names.patient(one["patient"])}
        for one in dataset.get("patient_examples", [])
    ]


def anonymise_warning(message: str, arguments: Any, dataset: ImageFolder, names: Pseudonyms) -> str:
    """Format the message of a warning without names of files or patients.

    Parameters
    ----------
    message : str
        Message with %-placeholders.
    arguments : tuple
        Values of the placeholders. Numbers, names of classes and `NamesNobody` stay, patients become
        pseudonyms, and other texts become "(left out)".
    dataset : ImageFolder
        Images that the warning is about, for the names of patients and classes.
    names : Pseudonyms

    Returns
    -------
    str
    """
    groups = set() if dataset.groups is None else set(dataset.groups.tolist())
    known = set(dataset.class_names)

    def shown(value: Any) -> Any:
        if isinstance(value, numbers.Number | NamesNobody):
            return value
        text = str(value)
        if text in groups:
            return names.patient(text)
        return text if set(text.split(", ")) <= known else _LEFT_OUT

    filled = tuple(map(shown, arguments if isinstance(arguments, tuple) else ()))
    return message % filled if filled else message
