"""Kill the workers of test_distributed.py with SIGKILL at the worst moments. The workers preload this file.

An image file named "poison..." kills every process that opens it. One named "fatal..." kills only the first.
A file named "die_after_writing" beside a store kills the next worker that writes a shard, after the write.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

from medvlad.images import prefetch as loading
from medvlad.store.store import Section

# Dask executes a preloaded file twice, so the original functions are kept only once.
_load = vars(loading).setdefault("undisturbed_load", loading.read_image)
_adopt = vars(loading).setdefault("undisturbed_adopt", Section.adopt)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def once(marker):
    with suppress(FileNotFoundError):
        marker.unlink()
        return True
    return False


def deadly_load(source, **options):
    path = Path(source)
    if path.name.startswith("poison") or (path.name.startswith("fatal") and once(path.with_suffix(".alive"))):
        die()
    return _load(source, **options)


def deadly_adopt(self, content):
    _adopt(self, content)
    if once(self.path.parent.parent / "die_after_writing"):
        die()


loading.read_image, Section.adopt = deadly_load, deadly_adopt
