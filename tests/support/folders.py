"""Shared by the tests of data sets: folders of empty files, the real sets, and a check of refusals."""

import pytest
from conftest import DATA, REQUIRED

from medvlad._util.validate import InputError


def real(folder):
    """Return the folder of a real data set, or skip the test visibly."""
    path = DATA / folder
    if not path.is_dir():
        if "data" in REQUIRED:
            pytest.fail(f"the data folder is required: {path}")
        pytest.skip(f"{path} is not there (set MEDVLAD_DATA)")
    return path


def touch(root, *names):
    """Create empty files: loaders only look at names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def relative(data, root):
    return [path.relative_to(root).as_posix() for path in data.paths]


def refusal(call, *parts):
    """Check that `call` raises an InputError of one line that holds all `parts`. Return the message."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message
