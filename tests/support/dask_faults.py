"""Preloaded by the workers of test_distributed.py: deaths at the worst moments, by SIGKILL.

An image whose name begins with "poison" kills whoever opens it; "fatal" does so the first time. A file
"die_after_writing" beside a store kills the worker that writes the next shard, when it is written.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

from medvlad.images import prefetch as loading
from medvlad.store.store import Section

# Dask executes a preloaded file twice.
_load = vars(loading).setdefault("undisturbed_load", loading.load_image_and_key)
_adopt = vars(loading).setdefault("undisturbed_adopt", Section.adopt)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def once(marker):
    with suppress(FileNotFoundError):
        marker.unlink()
        return True
    return False


def deadly_load(source):
    path = Path(source)
    if path.name.startswith("poison") or (path.name.startswith("fatal") and once(path.with_suffix(".alive"))):
        die()
    return _load(source)


def deadly_adopt(self, content):
    _adopt(self, content)
    if once(self.path.parent.parent / "die_after_writing"):
        die()


loading.load_image_and_key, Section.adopt = deadly_load, deadly_adopt
