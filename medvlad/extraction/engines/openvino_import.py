"""Import OpenVINO without its telemetry."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, cast

from medvlad._util.validate import import_extra

__all__ = ["import_openvino"]

_TELEMETRY = "openvino_telemetry"


def import_openvino(purpose: str) -> Any:
    """Import OpenVINO. Its import reports to a server unless its telemetry is missing.

    Parameters
    ----------
    purpose : str
        What needs OpenVINO, for the error.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return import_extra("openvino", "openvino", purpose)
    sys.modules[_TELEMETRY] = cast(ModuleType, None)  # to Python a module that is not installed
    try:
        return import_extra("openvino", "openvino", purpose)
    finally:
        del sys.modules[_TELEMETRY]
