"""Options of similar cases, and the file of training images that 'train' writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloup

if TYPE_CHECKING:
    from medvlad.datasets.folders import ImageFolder

__all__ = ["KEEP_SIMILAR", "SIMILAR", "TOP", "TrainingImages"]

KEEP_SIMILAR = cloup.option(
    "--similar/--no-similar",
    default=None,
    help="Keep the encoded training images in MODEL.cases, for 'medvlad similar'.  [default: up to 512 MiB]",
)
SIMILAR = cloup.option(
    "--similar",
    type=int,
    metavar="N",
    help="Also give the N most similar training images; needs MODEL.cases.",
)
TOP = cloup.option(
    "--top", type=int, metavar="N", default=5, help="Number of training images for each image."
)


class TrainingImages:
    """Keep the encoded training images during the training, and write them beside the model.

    Parameters
    ----------
    wanted : bool or None
        Whether to keep them. None: unless they are large.
    anonymise : bool
        Replace names by digests of the content, and leave patients out.
    pattern : str or None
        Regular expression for patients in file names.
    """

    def __init__(self, wanted: bool | None, *, anonymise: bool, pattern: str | None) -> None:
        self._wanted, self._anonymise = wanted, anonymise
        self._pattern = None if anonymise else pattern
        self._cases: Any = None
        self._left_out = 0

    def keep(self, encoded: Any, dataset: ImageFolder) -> None:
        """Take the encoded images (n, D) of a data set."""
        import numpy as np

        from medvlad.datasets.patients import UNKNOWN
        from medvlad.decisions.similar import SimilarCases
        from medvlad.models.cases_file import MAX_BYTES, Cases, digest_names

        n_bytes = 4 * encoded.shape[0] * encoded.shape[1]
        if self._wanted is False or (self._wanted is None and n_bytes > MAX_BYTES):
            self._left_out = n_bytes
            return
        patients = None
        if dataset.groups is not None and not self._anonymise:
            patients = dataset.groups.tolist()
            if dataset.patient_sources is not None:
                known = (dataset.patient_sources != UNKNOWN).tolist()
                patients = [one if sure else None for one, sure in zip(patients, known, strict=True)]
        names = digest_names(dataset.paths) if self._anonymise else [str(path) for path in dataset.paths]
        labels = np.array(dataset.class_names)[dataset.labels]
        self._cases = Cases(SimilarCases().fit(encoded, names, labels, patients), self._pattern)

    def write(self, model: Path) -> tuple[str, str]:
        """Write them beside the model.

        Parameters
        ----------
        model : Path
            The model file.

        Returns
        -------
        companion : str
            End of a sentence that names the file. Empty: none is written.
        left_out : str
            A line that says that they are too large. Empty: they are not.
        """
        from medvlad.models.cases_file import cases_path, remove_cases, save_cases

        if self._cases is None:
            remove_cases(model)
            if self._wanted is False:
                return "", ""
            return "", (
                f"the training images take {self._left_out >> 20} MiB, so they are not kept for 'medvlad "
                "similar': --similar keeps them"
            )
        save_cases(self._cases, model)
        return f", and {cases_path(model).name} for 'medvlad similar'", ""
