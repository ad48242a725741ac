"""Matrices in files for tests of the linear SVM by passes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import medvlad


def mapped(x, path):
    """Write rows to a .npy file and return a read-only memory map of it."""
    np.save(path, x)
    return np.load(path, mmap_mode="r")


def environment():
    """Return the environment in which a child process imports this medvlad."""
    root = str(Path(medvlad.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def start_python(code, *arguments):
    """Start a child process that runs Python code, with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
