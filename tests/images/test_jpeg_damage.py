"""Damaged JPEG data is noticed, sound JPEG data is not suspected, and nothing in it is dangerous."""

import logging

import numpy as np
import pytest
from PIL import Image
from support.jpegs import decoded, first_data, jpeg, overwritten, picture, surely_damaged

from medvlad import InputError
from medvlad.images.damage import find_damage, jpeg_damage
from medvlad.images.read import load_image

pytest.importorskip("medvlad.images._jpeg", reason="the package was not built")

KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "no subsampling": {"subsampling": 0},
    "one colour": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "restarts": {"restart_marker_blocks": 7},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
    "best quality": {"quality": 100, "subsampling": 0},
    "worst quality": {"quality": 1},
    "optimised": {"optimize": True, "subsampling": 1},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_sound_data_of_every_kind_and_size_is_not_suspected(rng, options):
    for height, width in [(2, 2), (8, 8), (9, 17), (96, 120), (255, 33)]:
        assert jpeg_damage(jpeg(picture(rng, height, width), **options)) == ""


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_black_white_and_random_pixels_are_not_suspected(rng, options):
    shape = (40, 48, 3)
    checks = np.indices(shape[:2]).sum(axis=0)[..., None] % 2 * np.full(3, 255)
    noise = rng.integers(0, 256, shape)
    for pixels in (np.zeros(shape), np.full(shape, 255), checks, noise, noise // 128 * 255):
        assert jpeg_damage(jpeg(pixels.astype(np.uint8), **options)) == ""


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "L"}], ids=str)
def test_most_of_the_damage_that_changes_the_picture_is_found(rng, options):
    """libjpeg's own warnings, which Pillow drops, find about half of it."""
    n_wrong = n_found = 0
    while n_wrong < 60:
        sound = jpeg(picture(rng, 240, 320), **options)
        data = overwritten(sound, rng)
        pixels = decoded(data)
        if pixels is None or np.abs(pixels.astype(int) - decoded(sound)).mean() < 1:
            continue
        n_wrong += 1
        n_found += jpeg_damage(data) != ""
    assert n_found >= 45


def test_each_rule_is_checked(rng):
    """Faults made by hand, one for each rule that needs no knowledge of the codes."""
    sound = jpeg(picture(rng), restart_marker_blocks=7)
    start = first_data(sound)
    first, second = sound.index(b"\xff\xd0", start), sound.index(b"\xff\xd1", start)
    faults = {
        "its data does not end": sound[:first] + b"\x55" + sound[first:],
        "its data ends too early": sound[: first - 9] + sound[first:],
        "a restart marker is not in its place": sound[:first] + sound[second:],
        "a restart marker too many": sound[:-2] + b"\xff\xd3" + sound[-2:],
        "bytes between its parts": sound[:start].replace(b"\xff\xc4", b"\x00\xff\xc4", 1) + sound[start:],
    }
    for expected, data in faults.items():
        assert expected in jpeg_damage(data)


def test_contrasts_are_measured_in_steps_of_each_coefficient(rng):
    """The sum is first bounded from above. Only a block that exceeds the bound is measured."""
    noise = rng.integers(0, 2, (40, 48), dtype=np.uint8) * np.uint8(255)
    sound = jpeg(noise, "L", quality=90)
    table = sound.index(b"\xff\xdb") + 5
    for factor, expected in ((1, ""), (2, "it holds contrasts that do not exist")):
        steps = bytes([sound[table], *(min(255, factor * step) for step in sound[table + 1 : table + 64])])
        assert jpeg_damage(sound[:table] + steps + sound[table + 64 :]) == expected


def test_data_after_the_end_is_no_damage(rng):
    """Cameras append previews there."""
    assert jpeg_damage(jpeg(picture(rng)) + b"\xff\xd8 more \xff\xda") == ""


def test_a_fill_byte_before_a_marker_is_no_damage(rng):
    data = jpeg(picture(rng), restart_marker_blocks=7)
    at = data.index(b"\xff\xd0", first_data(data))
    assert jpeg_damage(data[:at] + b"\xff" + data[at:-2] + b"\xff\xff" + data[-2:]) == ""


def test_random_and_cut_bytes_end_in_an_answer(rng):
    for options in KINDS.values():
        sound = jpeg(picture(rng, 40, 40), **options)
        for _ in range(150):
            data = bytearray(sound)
            for at in rng.integers(2, len(data), 4):
                data[at] = rng.integers(0, 256)
            size = bytes(data).find(b"\xff\xc0")
            if size >= 0:  # the caller limits the size of the image
                data[size + 5], data[size + 7] = 0, 0
            assert isinstance(jpeg_damage(bytes(data[: rng.integers(0, len(data) + 1)])), str)
    assert jpeg_damage(b"") == ""


# ------------------------------------------------------------------------------------------ files


@pytest.fixture
def damaged(tmp_path, rng):
    path = tmp_path / "damaged.jpg"
    path.write_bytes(surely_damaged(picture(rng), rng))
    return path


def test_a_damaged_file_is_named_in_a_warning_and_read(damaged, caplog):
    pixels = load_image(damaged)
    np.testing.assert_array_equal(pixels, decoded(damaged.read_bytes()))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"image {str(damaged)!r} has damaged JPEG data" in record.getMessage()


def test_a_damaged_file_is_refused_if_asked_to(damaged):
    with pytest.raises(InputError, match=r"damaged\.jpg' has damaged JPEG data"):
        load_image(damaged, on_damage="raise")


def test_a_sound_file_gives_no_warning(tmp_path, rng, caplog):
    path = tmp_path / "sound.jpg"
    path.write_bytes(jpeg(picture(rng)))
    load_image(path, on_damage="raise")
    assert not caplog.records


def test_a_wrong_choice_is_refused(damaged):
    with pytest.raises(InputError, match="on_damage must be one of warn, raise, ignore, got 'skip'"):
        load_image(damaged, on_damage="skip")


def tiff(path, pixels, **options):
    Image.fromarray(pixels).save(path, compression="jpeg", quality=85, **options)
    return path


def spoil(path, rng, expected):
    """Overwrite data in a file until it is read as something else; return whether it was noticed."""
    content = path.read_bytes()
    for _ in range(200):
        at = int(rng.integers(200, len(content) - 200))
        path.write_bytes(content[:at] + rng.bytes(24) + content[at + 24 :])
        try:
            found = load_image(path, on_damage="raise")
        except InputError as error:
            if "has damaged JPEG data" in str(error):
                return True
            continue
        if np.abs(found.astype(int) - expected).mean() > 30:
            return False
    return False


def test_damage_of_jpeg_in_tiff_is_found(tmp_path, rng):
    path = tiff(tmp_path / "a.tif", picture(rng, 200, 240))
    assert spoil(path, rng, load_image(path, on_damage="raise").astype(int))


def test_the_page_that_is_read_is_checked(tmp_path, rng):
    sound = [Image.fromarray(picture(rng)) for _ in range(2)]
    path = tmp_path / "pages.tif"
    sound[0].save(path, save_all=True, append_images=sound[1:], compression="jpeg")
    with Image.open(path) as image:
        image.seek(1)
        at = image.tag_v2[273][0] + image.tag_v2[279][0] // 2
    content = path.read_bytes()
    path.write_bytes(content[:at] + b"\x55\xaa" * 40 + content[at + 80 :])
    load_image(f"{path}#0", on_damage="raise")
    with pytest.raises(InputError, match="has damaged JPEG data"):
        load_image(f"{path}#1", on_damage="raise")


def test_damage_of_jpeg_in_dicom_is_found(tmp_path, rng):
    pydicom = pytest.importorskip("pydicom", reason="the extra medical is not installed")
    pixels = picture(rng)
    path = tmp_path / "a.dcm"
    for data, is_damaged in ((jpeg(pixels, "L"), False), (surely_damaged(pixels, rng, mode="L"), True)):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        header.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = "1.2.3"
        header.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        header.Rows, header.Columns = pixels.shape[:2]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 8
        header.HighBit, header.PixelRepresentation = 7, 0
        header.PixelData = pydicom.encaps.encapsulate([data])
        header["PixelData"].is_undefined_length = True
        header.save_as(path, enforce_file_format=True)
        with path.open("rb") as file:
            assert (find_damage(file, path, None) != "") is is_damaged


def test_other_formats_are_not_suspected(tmp_path, rng):
    for name in ("a.png", "a.bmp", "a.tif", "a.gif", "a.webp", "a.ppm"):
        Image.fromarray(picture(rng)).save(tmp_path / name)
        load_image(tmp_path / name, on_damage="raise")
