"""What the tests of data sets share: folders of empty files, the real sets, and how a refusal reads."""

import pytest
from conftest import DATA, REQUIRED

from medvlad._util.validate import InputError


def real(folder):
    """Path of a real data set, or a visible skip."""
    path = DATA / folder
    if not path.is_dir():
        if "data" in REQUIRED:
            pytest.fail(f"the data folder is required: {path}")
        pytest.skip(f"{path} is not there (set MEDVLAD_DATA)")
    return path


def touch(root, *names):
    """Create files; loaders look at names only."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def relative(data, root):
    return [path.relative_to(root).as_posix() for path in data.paths]


def refusal(call, *parts):
    """Check that `call` is refused in one line that holds all `parts`."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message
