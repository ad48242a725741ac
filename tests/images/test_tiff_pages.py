"""Which pages of a TIFF are images, and images of a stack that have no pages."""

import io
import json
import logging
import struct

import numpy as np
import pytest
from support.image_bytes import refusal, rgb, write
from support.tiff_files import page, tiff_of

from medvlad.images.read import list_frames, load_image

PICTURES = [rgb(seed=seed) for seed in range(3)]
SMALL = rgb(3, 4, seed=9)
REDUCED, MASK, PAGE = 1, 4, 2


def check(folder, content, pictures):
    """Check that a file holds these images, in this order."""
    path = write(folder, "a.tif", content)
    frames = list_frames(path)
    names = [path] if len(pictures) == 1 else [f"{path}#{i}" for i in range(len(pictures))]
    assert list(map(str, frames)) == list(map(str, names))
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(load_image(frame), picture)
    refusal(f"{path}#{len(pictures)}", "does not exist", f"holds {len(pictures)} image")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [{"t254": [REDUCED]}, {"t254": [REDUCED | PAGE]}, {"t255": [2]}], ids=str)
def test_reduced_copies_are_no_images(tmp_path, order, big, kind):
    if big and order == ">":
        pytest.importorskip("tifffile", reason="Pillow does not read it")
    pages = [page(PICTURES[0]), page(SMALL, **kind), page(SMALL[:2, :2], **kind)]
    check(tmp_path, tiff_of(*pages, order=order, big=big), PICTURES[:1])


def test_copies_after_each_page_are_no_images(tmp_path):
    copy = page(SMALL, t254=[REDUCED])
    pages = [page(PICTURES[0]), copy, page(PICTURES[1], t254=[PAGE]), copy, page(PICTURES[2]), copy]
    check(tmp_path, tiff_of(*pages), PICTURES)


def test_a_preview_before_the_image_is_no_image(tmp_path):
    check(tmp_path, tiff_of(page(SMALL, t254=[REDUCED]), page(PICTURES[1])), PICTURES[1:2])


@pytest.mark.parametrize("tags", [{"t254": [MASK]}, {"t254": [MASK | PAGE]}, {}], ids=str)
def test_masks_are_no_images(tmp_path, tags):
    mask = page(PICTURES[0][..., 0] % 2, 4, bits=1, **tags)
    check(tmp_path, tiff_of(page(PICTURES[0]), mask), PICTURES[:1])


def test_thumbnails_in_sub_directories_are_no_images(tmp_path):
    below = [page(SMALL, t254=[REDUCED]), page(SMALL, t254=[REDUCED])]
    check(tmp_path, tiff_of(page(PICTURES[0]), page(PICTURES[1]), below=below), PICTURES[:2])


def test_the_image_below_a_preview_is_the_image(tmp_path):
    """Camera files begin with a preview and hold the image in a sub-directory."""
    content = tiff_of(page(SMALL, t254=[REDUCED]), below=[page(PICTURES[2])])
    check(tmp_path, content, PICTURES[2:])


def test_reduced_copies_without_an_original_are_the_images(tmp_path):
    pages = [page(picture, t254=[REDUCED]) for picture in PICTURES]
    check(tmp_path, tiff_of(*pages), PICTURES)


def test_the_levels_of_a_slide_scanner_are_one_image(tmp_path):
    pages = [page(PICTURES[0], t270=b"Aperio Image Library v1\0"), page(SMALL), page(SMALL[:2])]
    check(tmp_path, tiff_of(*pages), PICTURES[:1])


def test_pages_of_different_encodings_are_read_each_by_its_own_decoder(tmp_path):
    pytest.importorskip("tifffile", reason="needs the extra medical")
    ramp = np.arange(54, dtype=np.float16).reshape(6, 9)
    grey = np.repeat(np.rint(ramp.astype(float) * 255 / 53)[..., None], 3, axis=2)
    content = tiff_of(page(ramp), page(PICTURES[1]), page(ramp[::-1]), page(PICTURES[2]))
    check(tmp_path, content, [grey, PICTURES[1], grey[::-1], PICTURES[2]])


def test_the_next_directory_behind_the_end_is_damage(tmp_path):
    content = bytearray(tiff_of(page(PICTURES[0]), page(PICTURES[1])))
    content = content[: len(content) - 40]  # cuts the second directory off
    path = write(tmp_path, "a.tif", bytes(content))
    assert list_frames(path) == [path]
    refusal(path, "corrupt or truncated")
    np.testing.assert_array_equal(load_image(f"{path}#0"), PICTURES[0])


@pytest.mark.parametrize("count", [0, 2**16 - 1])
def test_directories_of_impossible_size_are_refused(tmp_path, count):
    content = bytearray(tiff_of(page(PICTURES[0])))
    at = struct.unpack_from("<I", content, 4)[0]
    struct.pack_into("<H", content, at, count)
    refusal(write(tmp_path, "a.tif", bytes(content)), "a.tif")


def test_a_limit_holds_for_copies_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLAD_MAX_FRAMES", "2")
    copies = [page(SMALL, t254=[REDUCED])] * 17
    refusal(write(tmp_path, "a.tif", tiff_of(page(PICTURES[0]), *copies)), "more than 2 images")


# -------------------------------------------------------------------------- stacks without pages

STACKS = ["u1", "u2", "f4"]


def stack(dtype, n_images=4):
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (n_images, 6, 9)).astype(dtype)


def shown(images, dtype, *, white=False):
    """Return grey levels of images. If `white`, the smallest number is white."""
    if dtype == "u1":
        return [np.repeat((255 - image if white else image)[..., None], 3, axis=2) for image in images]
    found = []
    for image in images.astype(float):
        above = image.max() - image if white else image - image.min()
        grey = np.rint(above * 255 / (image.max() - image.min()))
        found.append(np.repeat(grey[..., None], 3, axis=2))
    return found


def described(program, images):
    if program == "ImageJ":
        return f"ImageJ=1.53t\nimages={len(images)}\nslices={len(images)}\nmode=grayscale\n\0".encode()
    return json.dumps({"shape": list(images.shape), "truncated": True}).encode() + b"\0"


def without_pages(images, program="ImageJ", order="<", photometric=1, **tags):
    """Return a TIFF of one directory, behind which the pixels of all images lie."""
    tags = tags or {"t270": described(program, images)}
    content = bytearray(tiff_of(page(images[0], photometric, **tags), order=order))
    offset_at = content.index(struct.pack(order + "HHI", 273, 4, 1)) + 8
    struct.pack_into(order + "I", content, offset_at, len(content))
    return bytes(content) + images.astype(images.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize("program", ["ImageJ", "tifffile"])
@pytest.mark.parametrize("dtype", STACKS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white", [False, True])
def test_a_stack_without_pages_gives_all_images(tmp_path, program, dtype, order, white):
    """It needs no extra: the images are not compressed."""
    images = stack(dtype)
    content = without_pages(images, program, order, 0 if white else 1)
    check(tmp_path, content, shown(images, dtype, white=white))


@pytest.mark.parametrize("program", ["ImageJ", "tifffile"])
@pytest.mark.parametrize("colour", [False, True])
def test_stacks_as_tifffile_writes_them(tmp_path, program, colour):
    tifffile = pytest.importorskip("tifffile", reason="needs the extra medical")
    images = np.stack(PICTURES) if colour else stack("u2")
    file = io.BytesIO()
    kind = {"imagej": True} if program == "ImageJ" else {"photometric": "rgb" if colour else "minisblack"}
    tifffile.imwrite(file, images, truncate=True, **kind)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as opened:
        assert len(opened.pages) == 1
    check(tmp_path, file.getvalue(), PICTURES if colour else shown(images, "u2"))


def test_a_stack_of_metamorph_gives_all_images(tmp_path):
    """The number of values of tag 33629 is the number of images."""
    images = stack("u2")
    content = without_pages(images, t33629=[7] * len(images))
    check(tmp_path, content, shown(images, "u2"))


@pytest.mark.parametrize("tile", [None, (16, 16), (2, 16, 16)])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_volume_in_one_page_gives_all_slices(tmp_path, tile, colour, compression):
    tifffile = pytest.importorskip("tifffile", reason="needs the extra medical")
    images = np.stack(PICTURES) if colour else stack("u2")
    file = io.BytesIO()
    kind = "rgb" if colour else "minisblack"
    tifffile.imwrite(
        file, images, volumetric=True, tile=tile, photometric=kind, compression=compression, metadata=None
    )
    check(tmp_path, file.getvalue(), PICTURES if colour else shown(images, "u2"))


def test_a_volume_of_too_many_slices_is_refused(tmp_path):
    content = tiff_of(page(PICTURES[0], t32997=[10_001]))
    path = write(tmp_path, "a.tif", content)
    assert list_frames(path) == [path]
    refusal(path, "more than 10000 images")


def test_a_volume_that_would_fill_the_memory_is_refused(tmp_path):
    content = tiff_of(page(PICTURES[0], t256=[9000], t257=[9000], t32997=[1000]))
    write(tmp_path, "a.tif", content)
    refusal(f"{tmp_path / 'a.tif'}#3", "more pixels than are safe")


def test_several_stacks_without_pages_in_one_file(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="needs the extra medical")
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for images in (stack("u1", 3), stack("u1", 2)[:, :5]):
            writer.write(images, truncate=True, photometric="minisblack")
    check(tmp_path, file.getvalue(), shown(stack("u1", 3), "u1") + shown(stack("u1", 2)[:, :5], "u1"))


def test_a_stack_with_pages_is_not_counted_twice(tmp_path):
    images = stack("u1")
    pages = [page(image, t270=described("ImageJ", images)) for image in images]
    check(tmp_path, tiff_of(*pages), shown(images, "u1"))


def test_a_copied_description_does_not_make_images(tmp_path, caplog):
    image = stack("u1")[0]
    content = tiff_of(page(image, t270=described("ImageJ", stack("u1"))))
    with caplog.at_level(logging.WARNING):
        check(tmp_path, content, shown(image[None], "u1"))
    assert "a.tif" in caplog.text
    assert "4 images" in caplog.text


def test_a_stack_that_is_cut_off_is_refused(tmp_path):
    path = write(tmp_path, "a.tif", without_pages(stack("u1"))[:-10])
    assert list_frames(path) == [path]
    refusal(path, "corrupt or truncated", "4 images", "room for 3")


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[1]",
        b'{"shape": 3, "truncated": true}',
        b'{"shape": [0, 6, 9], "truncated": true}',
        b"ImageJ=1\n",
    ],
)
def test_other_descriptions_are_passed_over(tmp_path, text):
    check(tmp_path, tiff_of(page(PICTURES[0], t270=text + b"\0")), PICTURES[:1])


def test_a_stack_of_too_many_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLAD_MAX_FRAMES", "3")
    refusal(write(tmp_path, "a.tif", without_pages(stack("u1"))), "more than 3 images")
