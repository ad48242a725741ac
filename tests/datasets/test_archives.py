"""Archives are unpacked below one folder, without the owners and permissions that they state."""

import io
import os
import tarfile
import warnings
import zipfile

import pytest

from medvlad import InputError
from medvlad.datasets.archives import unpack


def write_zip(path, name):
    """Write a zip as some programs on Windows do: zipfile itself would turn the backslashes over."""
    placeholder = name.replace("\\", "|")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(placeholder, b"x")
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name.encode()))
    return path


def write_tar(path, name, **attributes):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 1
        for attribute, value in attributes.items():
            setattr(info, attribute, value)
        archive.addfile(info, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_backslashes_of_windows_separate_folders(tmp_path, write):
    unpack(write(tmp_path / "archive", "a\\b.txt"), tmp_path)
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"x"


def test_a_tar_states_no_permissions_or_times(tmp_path):
    plain = tmp_path / "plain.txt"
    plain.write_bytes(b"x")
    unpack(write_tar(tmp_path / "a.tar", "b.txt", mode=0o6000, mtime=1, uid=12345), tmp_path)
    made = (tmp_path / "b.txt").stat()
    assert made.st_mode == plain.stat().st_mode
    assert made.st_uid == os.getuid()
    assert made.st_mtime > 1


def test_a_device_is_refused(tmp_path):
    with pytest.raises(InputError, match="is unsafe"):
        unpack(write_tar(tmp_path / "a.tar", "null", type=tarfile.CHRTYPE, size=0), tmp_path)


def test_no_deprecated_way_of_unpacking_is_used(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unpack(write_tar(tmp_path / "a.tar", "b.txt"), tmp_path)
    assert (tmp_path / "b.txt").exists()
