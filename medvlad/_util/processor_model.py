"""Read the model of the processor and its instructions, as Linux reports them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["ProcessorModel", "processor_model"]


class ProcessorModel(NamedTuple):
    """Model of the processor and its instructions.

    Attributes
    ----------
    name : str
        Vendor, family, model, stepping and name. Empty if it is not known.
    instructions : frozenset of str
        Linux' names of instruction sets, such as "amx_bf16". Empty if they are not known.
    """

    name: str
    instructions: frozenset[str]


@cache
def processor_model(root: Path = Path("/")) -> ProcessorModel:
    """Return what Linux says about the first processor. On other systems nothing is known.

    A virtual machine may mask instructions of its processor. Linux lists only those that programs may use.

    Parameters
    ----------
    root : Path, default=Path("/")
        Folder that holds ``proc``. Tests give another one.
    """
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ProcessorModel("", frozenset())
    fields: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    names = ("vendor_id", "cpu family", "model", "stepping", "model name")
    name = " ".join(fields[one] for one in names if one in fields)
    return ProcessorModel(name, frozenset(fields.get("flags", "").split()))
