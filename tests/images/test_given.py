"""Images in memory give the pixels of their files: bytes, open files, Pillow images, tensors."""

import io

import numpy as np
import pytest
from PIL import Image

from medvlad import InputError
from medvlad.images import given
from medvlad.images.hashed_file import image_key
from medvlad.images.prefetch import as_sequence, load_squares
from medvlad.images.read import load_image, read_image

PIXELS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3) * 2


@pytest.fixture(
    params=[
        "a.png",
        "a.jpg",
        "a.tiff",
        "turned.jpg",
        "palette.png",
        "grey.png",
        "deep.png",
        "cmyk.jpg",
        "la.png",
    ]
)
def file(request, tmp_path):
    """An image file of each mode, one with an EXIF orientation."""
    path = tmp_path / request.param
    image = Image.fromarray(PIXELS)
    exif = Image.Exif()
    name = path.stem
    if name == "turned":
        exif[0x0112] = 6
    elif name == "palette":
        image = image.quantize(8)
    elif name == "grey":
        image = image.convert("L")
    elif name == "la":
        image = image.convert("LA")
    elif name == "cmyk":
        image = image.convert("CMYK")
    elif name == "deep":
        image = Image.fromarray(np.arange(30, dtype=np.uint16).reshape(6, 5) * 100)
    image.save(path, **({"transparency": 0} if name == "palette" else {}), exif=exif)
    return path


def test_bytes_and_open_files_give_the_pixels_of_the_file(file):
    expected, content = load_image(file), file.read_bytes()
    for source in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(load_image(source), expected)
    with file.open("rb") as opened:
        np.testing.assert_array_equal(load_image(opened), expected)
        np.testing.assert_array_equal(load_image(opened), expected)
        assert not opened.closed


def test_a_pillow_image_gives_the_pixels_of_its_file(file):
    with Image.open(file) as image:
        before = dict(image.info)
        np.testing.assert_array_equal(load_image(image), load_image(file))
        assert image.info == before


def test_a_pillow_image_that_was_turned_is_not_turned_again(tmp_path):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        upright = ImageOps.exif_transpose(image)
    np.testing.assert_array_equal(load_image(upright), load_image(tmp_path / "a.png"))


def test_the_key_of_bytes_is_that_of_the_file(file):
    key = image_key(file)
    assert image_key(file.read_bytes()) == key
    assert image_key(io.BytesIO(file.read_bytes())) == key
    assert read_image(file.read_bytes(), hashed=True).key == key
    assert read_image(file.read_bytes(), hashed=False).key == ""


def test_dicom_is_read_from_bytes(tmp_path):
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from pydicom.data import get_testdata_file

    path = get_testdata_file("CT_small.dcm")
    with open(path, "rb") as opened:  # noqa: PTH123
        np.testing.assert_array_equal(load_image(opened.read()), load_image(path))


class Tensor:
    """What a tensor of another library offers."""

    def __init__(self, array):
        self.shape, self.dtype, self._array = array.shape, array.dtype, array

    def __array__(self, dtype=None, copy=None):
        return self._array

    def __len__(self):
        return len(self._array)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_a_tensor_gives_the_pixels_of_its_array(channels, rng):
    array = rng.integers(0, 256, (4, 7, *channels), dtype=np.uint8)
    np.testing.assert_array_equal(load_image(Tensor(array)), load_image(array))
    assert image_key(Tensor(array)) == image_key(array)


def test_a_tensor_of_tensorflow_is_read():
    tf = pytest.importorskip("tensorflow", reason="needs the extra tensorflow")
    np.testing.assert_array_equal(load_image(tf.constant(PIXELS)), PIXELS)


def test_a_tensor_of_torch_is_read():
    torch = pytest.importorskip("torch", reason="needs torch")
    np.testing.assert_array_equal(load_image(torch.from_numpy(PIXELS)), PIXELS)


def test_channels_first_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"channels first: give .* image.permute\(1, 2, 0\)"):
        load_image(Tensor(np.zeros((3, 8, 8), np.uint8)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "the image is empty"),
        (b"no image", "the image is not an image or its beginning is damaged"),
        (io.StringIO("text"), "gives text, not bytes"),
        (3, "must be a path, bytes, a binary file, a Pillow image or an array, got int"),
        (Tensor(np.zeros((4, 4, 3), np.float32)), "must be of uint8 or uint16, got float32"),
    ],
)
def test_other_objects_are_refused_in_one_sentence(source, message):
    with pytest.raises(InputError, match=message):
        load_image(source)


def test_a_closed_file_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with (tmp_path / "a.png").open("rb") as opened:
        pass
    with pytest.raises(InputError, match=r"the open file .*a\.png of an image cannot be read"):
        load_image(opened)


def test_a_truncated_pillow_image_is_refused(tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(content, "png")
    with (
        Image.open(io.BytesIO(content.getvalue()[:-40])) as image,
        pytest.raises(InputError, match="the Pillow image cannot be decoded"),
    ):
        load_image(image)


def test_lists_hold_any_kind_of_image(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    with Image.open(tmp_path / "a.png") as pillow, (tmp_path / "a.png").open("rb") as opened:
        images = [tmp_path / "a.png", content, opened, opened, pillow, PIXELS, Tensor(PIXELS)]
        keys = {}
        loaded = list(load_squares(images, range(7), [8], "bilinear", n_threads=3, keys=keys))
    first = loaded[0][1][0]
    assert [index for index, _ in loaded] == list(range(7))
    for _, squares in loaded:
        np.testing.assert_array_equal(squares[0], first)
    assert len({keys[i] for i in range(4)}) == 1


@pytest.mark.parametrize("one", [b"content", io.BytesIO(b"content"), Tensor(PIXELS), Image.fromarray(PIXELS)])
def test_a_single_image_is_no_list(one):
    with pytest.raises(InputError, match=r"must be a list of paths or arrays, got .*: put it into a list"):
        as_sequence(one)


def test_a_tensor_of_images_is_a_list():
    images = as_sequence(Tensor(PIXELS[None].repeat(4, axis=0)))
    assert len(images) == 4
    np.testing.assert_array_equal(load_image(images[2]), PIXELS)


def test_the_facts_of_a_kind_of_image():
    assert given.is_content(b"")
    assert given.is_content(io.BytesIO())
    assert not given.is_content("a.png")
    assert not given.is_content(PIXELS)
    assert given.array_of("a.png") is None
    assert given.array_of([1, 2]) is None
