"""Start Keras without the messages that its backend prints."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from typing import Any

from medvlad.extraction.networks.choose import needs_keras
from medvlad.extraction.networks.keras_network import import_keras

__all__ = ["start_keras"]

logger = logging.getLogger(__name__)


def start_keras(model: Any = "") -> None:
    """Import Keras and start its backend. Messages of TensorFlow's C++ code go to the log.

    TensorFlow writes them to file descriptor 2 directly. Neither ``sys.stderr`` nor TF_CPP_MIN_LOG_LEVEL has
    an effect on them.

    Parameters
    ----------
    model : str or torch.nn.Module, default=""
        Network that will run. If it is not of Keras, nothing is done. "": one of Keras.
    """
    if not needs_keras(model):
        return
    if sys.stderr is None:  # a caller has closed it
        _start()
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+") as announcements:
        saved = os.dup(2)
        os.dup2(announcements.fileno(), 2)
        try:
            _start()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            announcements.seek(0)
            logger.debug("while Keras started: %s", announcements.read().strip())


def _start() -> None:
    keras = import_keras()
    keras.ops.convert_to_numpy(keras.ops.zeros(1))
