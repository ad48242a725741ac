"""Share images out over the tasks of a batch system, such as a Slurm array.

::

    part of an image = SHA-256(name of its file, relative to the folder of images) mod N, from 1 to N

Each part is computed alone, without a word between the tasks: parts are disjoint, together they are all
images, and an image stays in its part if others are added or removed. The relative name does not depend on
where the folder is mounted. Sizes vary as those of random draws: of 1,000,000 images, each of 16 parts gets
62,500, with a standard deviation of 242.

The digest is that of the name and not of the content, although the store names images by content. A digest of
the content would make every task read every file: sixteen times 100 GB for a million images. What the name
costs: copies of an image can be in two parts. If both run at the same time, both may extract it. The store
finds it once all the same, and ``medvlad store gc`` removes the second copy.

All images of one file, such as the slices of a volume, are in one part, so that each file is read by one
task.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medvlad._util.validate import InputError

__all__ = ["ArrayPart", "read_part", "take_part"]

_Image = TypeVar("_Image", bound=str | os.PathLike[str])

_FRAME = re.compile(r"#[0-9]+\Z")  # at the end of the name of one of several images in a file
_WRITTEN = re.compile(r"(?P<number>auto|[0-9]{1,9})(?:/(?P<total>[0-9]{1,9}))?\Z")


@dataclass(frozen=True)
class _System:
    """Names of the variables of a batch system. "" if there is none."""

    name: str
    index: str
    first: str = ""
    last: str = ""
    step: str = ""
    count: str = ""
    from_zero: bool = False


_SYSTEMS = (
    _System(
        "Slurm",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_MAX",
        "SLURM_ARRAY_TASK_STEP",
        "SLURM_ARRAY_TASK_COUNT",
    ),
    _System("Grid Engine", "SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
    _System("AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", count="AWS_BATCH_JOB_ARRAY_SIZE", from_zero=True),
    _System("Kubernetes", "JOB_COMPLETION_INDEX", from_zero=True),
    _System("PBS", "PBS_ARRAY_INDEX"),
    _System("Torque", "PBS_ARRAYID"),
    _System("LSF", "LSB_JOBINDEX"),
)
#: Values of these variables in a job that is not an array.
_NO_ARRAY = {("SGE_TASK_ID", "undefined"), ("LSB_JOBINDEX", "0")}


@dataclass(frozen=True)
class ArrayPart:
    """One of several parts of a list of images.

    Parameters
    ----------
    number : int
        Number of the part, from 1.
    total : int
        Number of parts.

    Raises
    ------
    InputError
        If there is no such part.
    """

    number: int
    total: int

    def __post_init__(self) -> None:
        if self.total < 1 or not 1 <= self.number <= self.total:
            raise InputError(
                f"part='{self.number}/{self.total}' does not exist: parts are numbered from 1, such as "
                "part='3/16'"
            )

    def __str__(self) -> str:
        return f"part {self.number} of {self.total}"

    def holds(self, name: str) -> bool:
        """Return whether an image is in this part.

        Parameters
        ----------
        name : str
            Name of the file, relative to the folder of images, with slashes. ``#N`` at its end is left out.
            Spellings of the same accents are one name, because some file systems change them.
        """
        file = unicodedata.normalize("NFC", _FRAME.sub("", name)).encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.sha256(file).digest()[:8], "big") % self.total == self.number - 1


def read_part(text: str, environment: Mapping[str, str] | None = None) -> ArrayPart:
    """Return the part that a text names.

    Parameters
    ----------
    text : str
        "3/16": part 3 of 16. "auto": the task of an array of Slurm, Grid Engine or AWS Batch, which say how
        many tasks the array has. "auto/16": a task of an array of 16 in any of these, in Kubernetes, PBS,
        Torque or LSF. Indices from 1 to 16 and from 0 to 15 both work: 0 is then part 16, except in
        Kubernetes and AWS Batch, whose indices always begin with 0.
    environment : mapping of str to str, or None, default=None
        Environment variables. None: those of this process.

    Raises
    ------
    InputError
        If the text means no part, or the variables of the batch system are missing or do not fit.
    """
    match = _WRITTEN.match(text)
    if match is None or (match["total"] is None and match["number"] != "auto"):
        raise InputError(f"part must be a number of several such as 3/16, auto or auto/16, got {text!r}")
    total = None if match["total"] is None else int(match["total"])
    if match["number"] != "auto":
        return ArrayPart(int(match["number"]), total or 0)
    if total == 0:
        raise InputError("part='auto/0' has no part: write the number of tasks, such as part='auto/16'")
    variables = os.environ if environment is None else environment
    system = _system_of(variables)
    index = _number(variables, system.index)
    return _of_whole_array(system, index, variables) if total is None else _of_total(system, index, total)


def take_part(
    images: Sequence[_Image], part: str | ArrayPart, *, root: str | os.PathLike[str] = "."
) -> list[_Image]:
    """Return the images of one part, in their order.

    Parameters
    ----------
    images : sequence of paths
    part : str or ArrayPart
        As in :func:`read_part`.
    root : path, default="."
        Folder of the images. Names relative to it decide, so that it may be mounted elsewhere in each task.
        The name of an image outside is its whole path.

    Returns
    -------
    list of paths
        It may be empty if there are few images.

    Raises
    ------
    InputError
        As :func:`read_part`.

    Examples
    --------
    >>> images = [f"scans/{i}.png" for i in range(10)]
    >>> take_part(images, "1/3", root="scans")
    ['scans/3.png', 'scans/9.png']
    """
    chosen = read_part(part) if isinstance(part, str) else part
    text = os.fspath(root)
    base = text if "://" in text else str(Path(text))
    inside = "" if base == "." else f"{base.rstrip(os.sep)}{os.sep}"

    def name_of(image: _Image) -> str:
        name = str(image).removeprefix(inside)
        return name if os.sep == "/" else name.replace(os.sep, "/")

    return [image for image in images if chosen.holds(name_of(image))]


def _system_of(variables: Mapping[str, str]) -> _System:
    """Return the batch system whose variable is set."""
    found = [
        one
        for one in _SYSTEMS
        if variables.get(one.index) and (one.index, variables[one.index]) not in _NO_ARRAY
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(f"{one.index} ({one.name})" for one in _SYSTEMS)
        raise InputError(
            f"part='auto' needs a task of an array, and none of these variables is set: {known}; submit an "
            "array, or name the part, such as part='3/16'"
        )
    names = " and ".join(one.index for one in found)
    raise InputError(f"part='auto' cannot choose between {names}: name the part, such as part='3/16'")


def _number(variables: Mapping[str, str], name: str) -> int:
    value = variables.get(name, "")
    if re.fullmatch("[0-9]{1,9}", value) is None:
        raise InputError(
            f"part='auto' needs a whole number in {name}, got {value!r}: name the part, as in '3/16'"
        )
    return int(value)


def _of_total(system: _System, index: int, total: int) -> ArrayPart:
    """Return the part of a task in an array of `total` tasks. It does not depend on the other tasks."""
    most = total - 1 if system.from_zero else total
    if index > most:
        raise InputError(
            f"{system.index}={index} is not one of {total} tasks: number the array from "
            f"{'0' if system.from_zero else '1'} to {most}, or correct part='auto/{total}'"
        )
    return ArrayPart(index + 1 if system.from_zero else index or total, total)


def _of_whole_array(system: _System, index: int, variables: Mapping[str, str]) -> ArrayPart:
    """Return the part of a task in an array whose size the batch system tells."""
    if not (system.count or system.last) or (system.last or system.count) not in variables:
        raise InputError(
            f"{system.name} does not tell how many tasks the array has: write their number, such as "
            "part='auto/16'"
        )
    if not system.last:
        return _of_total(system, index, _number(variables, system.count))
    first, last = _number(variables, system.first), _number(variables, system.last)
    step = max(_number(variables, system.step), 1) if system.step in variables else 1
    place, rest = divmod(index - first, step)
    total = (last - first) // step + 1
    count = _number(variables, system.count) if system.count in variables else total
    if rest or count != total or not 0 <= place < total:
        raise InputError(
            f"the array of {system.name} has {count} tasks between {first} and {last}, and they are no "
            "range: write how many parts there are in all, such as part='auto/16'"
        )
    # As "auto/N" does, so that a task that is repeated in that way has the same part.
    return ArrayPart(place + 1 if step > 1 else (index - 1) % total + 1, total)
