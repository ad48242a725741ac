"""Pseudonyms: names of images and patients leave reports, and the key leads back to them."""

import re
from pathlib import Path

import pytest

from medvlad import InputError
from medvlad.datasets.pseudonyms import Pseudonyms, is_pseudonym
from medvlad.images.read import load_image


def test_a_path_and_its_string_have_one_pseudonym():
    names = Pseudonyms()
    assert names.image("a.dcm") == names.image(Path("a.dcm"))


def test_another_key_gives_another_pseudonym():
    assert Pseudonyms().image("a.dcm") != Pseudonyms().image("a.dcm")


def test_an_image_and_a_patient_of_one_name_differ():
    names = Pseudonyms()
    assert names.image("a").removeprefix("image-") != names.patient("a").removeprefix("patient-")


def test_the_table_leads_back_to_a_name():
    names = Pseudonyms()
    assert names.original(names.patient("a")) == "a"
    assert names.original("image-0000000000000000") is None


def test_a_key_that_is_written_and_read_gives_the_same_pseudonyms(tmp_path):
    names = Pseudonyms()
    names.image("a.dcm")
    names.write(tmp_path / "key")
    again = Pseudonyms.read(tmp_path / "key")
    assert again.image("b") == names.image("b")
    assert again.original(names.image("a.dcm")) == "a.dcm"


def test_a_pseudonym_is_known_by_its_form():
    assert is_pseudonym(Pseudonyms().image("a"))
    assert not is_pseudonym("image-a.png")


def test_a_key_of_another_length_is_refused():
    with pytest.raises(InputError, match="32 bytes, got 3"):
        Pseudonyms(b"abc")


@pytest.mark.parametrize("name", ["a/smith.png", "o'neil.png", 'a "b".png', "smith.dcm#3", "\udce9.png"])
def test_reasons_without_names(name):
    try:
        load_image(name)
    except InputError as error:
        text = str(error)
    told = Pseudonyms().reason(text, name)
    assert Path(name).stem.partition("#")[0] not in told
    assert "image-" in told or told == "it cannot be read"


def test_the_reason_of_a_copy_is_dropped():
    told = Pseudonyms().reason("image 'x/smith.png' is empty (0 bytes): copy it again", "x/copy.png")
    assert told == "it cannot be read"


def test_a_reason_keeps_its_words_with_a_pseudonym_for_the_name():
    """Names of other images are not searched for, so the time does not depend on their number."""
    told = Pseudonyms().reason("image 'x/smith.png' is empty (0 bytes): copy it again", "x/smith.png")
    assert re.fullmatch(r"image image-[0-9a-f]{16} is empty \(0 bytes\): copy it again", told)


def test_a_missing_key_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere cannot be read .*No such file.*: check the path"):
        Pseudonyms.read(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", '{"key": "00"}', '{"key": 3}', '{"key": "xx", "images": {}}'])
def test_a_file_that_is_not_a_key_is_refused(tmp_path, content):
    (tmp_path / "key").write_text(content)
    with pytest.raises(InputError, match=r"does not hold a key of pseudonyms|must have 32 bytes"):
        Pseudonyms.read(tmp_path / "key")


def test_sites_have_pseudonyms_that_the_key_leads_back_from(tmp_path):
    names = Pseudonyms()
    site = names.site("Basel")
    assert re.fullmatch("site-[0-9a-f]{16}", site)
    names.write(tmp_path / "key")
    assert Pseudonyms.read(tmp_path / "key").original(site) == "Basel"


def test_a_key_without_sites_is_read(tmp_path):
    (tmp_path / "key").write_text('{"key": "%s", "images": {}, "patients": {}}' % ("00" * 32))
    assert Pseudonyms.read(tmp_path / "key").site("Basel") == Pseudonyms(bytes(32)).site("Basel")
