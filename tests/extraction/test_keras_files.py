"""Files under the names of Keras' downloads, and files with a SHA-256 behind their name."""

import hashlib

import pytest

from medvlad import CNNDescriptors, InputError
from medvlad.extraction import keras_files
from medvlad.extraction.fetched_weights import weights_file
from medvlad.extraction.weights import check_weights

NAME = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
CONTENT = b"not the weights of VGG19"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    return path


def test_other_content_under_the_name_of_a_published_file_is_refused(file):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    with pytest.raises(InputError, match="are not what Keras publishes under this name"):
        CNNDescriptors("vgg19", weights=file).build()


def test_a_published_file_is_told_by_its_md5(file, monkeypatch):
    assert not keras_files.is_published(file)
    monkeypatch.setitem(keras_files._MD5, NAME, hashlib.md5(CONTENT).hexdigest())
    assert keras_files.is_published(file)
    keras_files.check_published(file)
    assert not keras_files.is_published(file.rename(file.with_name("my.h5")))


def test_the_download_lies_in_the_folder_of_keras(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert keras_files.cached_file("vgg19") == tmp_path / "models" / NAME


def test_a_file_must_have_the_sha256_behind_its_name(file):
    given = f"{file}#sha256={hashlib.sha256(CONTENT).hexdigest()}"
    assert weights_file(given) == file
    assert check_weights(given) == given
    with pytest.raises(InputError, match=f"have the SHA-256 {hashlib.sha256(CONTENT).hexdigest()}, not 00"):
        weights_file(f"{file}#sha256={'0' * 64}")
    odd = file.with_name("a#sha256=b.h5")
    odd.write_bytes(CONTENT)
    assert weights_file(str(odd)) == odd
