"""Targets of fuzzing. Malformed bytes must give right results, or an error of one sentence.

Each target takes bytes and a folder for files. `test_fuzz.py` makes the bytes with hypothesis,
`fuzz/guided.py` with atheris.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import tempfile
import threading
import warnings
import zlib
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.pipeline import Pipeline
from support.image_bytes import encode, pgm, png, rgb, tiff
from support.tiff_files import page, tiff_of

import medvlad as mv
from medvlad import Descriptors, InputError, WideLinearSVC, load_model, save_model
from medvlad.images.read import list_frames, load_image
from medvlad.models.model_file import model_card
from medvlad.store.store import DescriptorStore

SECONDS = 60
SETTINGS = {"model": "vgg16", "scales": [0]}
HAS_MEDICAL = all(
    importlib.util.find_spec(name) for name in ("pydicom", "nibabel", "tifffile", "imagecodecs")
)

#: Number of calls by target and result.
outcomes: Counter[str] = Counter()


def check_sentence(error, part=""):
    assert part in str(error), error
    assert "\n" not in str(error), error


@contextmanager
def limited(target):
    """Count the result of a call. End it after a minute, and ignore warnings of other libraries."""

    def too_long(*_):
        raise TimeoutError(f"{target} took more than {SECONDS} seconds")

    loggers = [logging.getLogger(name) for name in ("medvlad", "nibabel.global", "pydicom", "tifffile")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    alarm = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if alarm:
        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        outcomes[f"{target}: read"] += 1
    except InputError as error:
        check_sentence(error)
        outcomes[f"{target}: refused"] += 1
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if alarm:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------------------------- images


@cache
def image_samples():
    """Return bytes of valid files by kind, with the suffix that they need."""
    picture = Image.fromarray(rgb(12, 10))
    deep = np.arange(120, dtype=np.uint16).reshape(12, 10) * 9
    deep_colour = np.dstack([deep, deep[::-1], deep]).astype(np.uint16)
    pages = {"save_all": True, "append_images": [Image.fromarray(rgb(12, 10, seed=1))]}
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {
        "jpeg.jpg": encode(picture, "JPEG", exif=exif),
        "progressive.jpg": encode(picture, "JPEG", progressive=True),
        "rgb.png": encode(picture, "PNG", exif=exif),
        "deep.png": png(deep_colour, 2, 16),
        "palette.png": encode(picture.quantize(7), "PNG", transparency=bytes(7)),
        "lzw.tif": encode(picture, "TIFF", compression="tiff_lzw"),
        "deep.tif": tiff(deep_colour),
        "float.tif": tiff(np.linspace(-1, 1, 120, dtype=np.float32).reshape(12, 10), sample_format=3),
        "pages.tif": encode(picture, "TIFF", **pages),
        "pyramid.tif": tiff_of(page(rgb(12, 10)), page(rgb(6, 5), t254=[1]), below=[page(rgb(3, 4))]),
        "preview.tif": tiff_of(page(rgb(6, 5), t254=[1]), below=[page(rgb(12, 10))], order=">", big=True),
        "packed.tif": tiff_of(page(deep, bits=12), order=">"),
        "half.tif": tiff_of(page(deep.astype(np.float16), t259=[8]), order=">", packed=zlib.compress),
        "alpha.tif": tiff_of(page(np.dstack([deep, deep[::-1]]), 1, t338=[1])),
        "planes.tif": tiff_of(page(deep_colour, in_planes=True)),
        "stack.tif": tiff_of(page(deep, t270=b"ImageJ=1\nimages=2\n\0")) + bytes(500),
        "deep.ppm": b"P6 10 12 4095\n" + deep_colour.astype(">u2").tobytes(),
        "rgb.jp2": encode(picture, "JPEG2000"),
        "rgb.avif": encode(picture, "AVIF"),
        "plain.bmp": encode(picture, "BMP"),
        "one.gif": encode(picture.quantize(9), "GIF"),
        "frames.gif": encode(picture, "GIF", **pages),
        "lossy.webp": encode(picture, "WEBP"),
        "lossless.webp": encode(picture, "WEBP", lossless=True),
        "deep.pgm": pgm(deep),
    }
    return found | (_medical_samples() if HAS_MEDICAL else {})


def _medical_samples():
    import nibabel
    import pydicom
    from support.medical_files import RAMP, write_dicom, write_nifti

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        window = {"WindowCenter": 5, "WindowWidth": 9, "RescaleSlope": 2, "RescaleIntercept": -3}
        found["grey.dcm"] = write_dicom(path, RAMP, bits=12, **window).read_bytes()
        frames = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        found["frames.dcm"] = write_dicom(path, frames, frames=2).read_bytes()
        content = pydicom.dcmread(path)
        content.compress(pydicom.uid.RLELossless)
        content.save_as(path)
        found["rle.dcm"] = path.read_bytes()
        content = pydicom.dcmread(write_dicom(path, RAMP, bits=12))
        content.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        content.save_as(path)
        found["deflated.dcm"] = path.read_bytes()
        found |= _compressed_samples()
        volume = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
        for name in ("one.nii", "one.nii.gz"):
            found[name] = write_nifti(path.with_name(name), volume, cal_min=3, cal_max=40).read_bytes()
        nibabel.save(nibabel.Nifti2Image(volume, np.eye(4)), path.with_name("two.nii"))
        found["two.nii"] = path.with_name("two.nii").read_bytes()
    return found


def _compressed_samples():
    """Return DICOM without file meta information, in big endian, of one bit, and of compressed frames."""
    from support import unusual_dicom as dicom

    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    colour = dicom.smooth_colours()
    jpeg_2000 = dicom.imagecodecs.jpeg2k_encode(grey, level=0, codecformat="j2k", reversible=True)
    frames = {
        "jpeg_8": (dicom.jpeg(colour, "RGB", ids=b"RGB"), dicom.image_of(colour)),
        "jpeg_12": (dicom.imagecodecs.jpeg8_encode(grey, level=90, bitspersample=12), None),
        "lossless": (dicom.imagecodecs.jpeg8_encode(grey, lossless=True, bitspersample=16), None),
        "jpeg_ls": (dicom.imagecodecs.jpegls_encode(grey), None),
        "jpeg_2000": (jpeg_2000, None),
        "rle_16": (dicom.rle(grey), None),
    }
    found = {
        f"{name}.dcm": dicom.encapsulated([frame, frame], data or dicom.image_of(grey, bits=12))
        for name, (frame, data) in frames.items()
    }
    bits = dicom.image_of(np.ones((3, 3), np.uint8), NumberOfFrames=4)
    bits.BitsAllocated, bits.BitsStored, bits.HighBit = 1, 1, 0
    found["bits.dcm"] = dicom.body(bits)
    for name, encoding in (("bare", dicom.IMPLICIT), ("big", dicom.BIG)):
        found[f"{name}.dcm"] = dicom.body(
            dicom.image_of(grey, bits=12, HighBit=15, encoding=encoding), encoding
        )
    return found


def check_image(folder, ending, content):
    """Read the bytes as an image: pixels or an error. DICOM and NIfTI are recognised by the suffix."""
    path = Path(folder) / f"hostile{ending}"
    path.write_bytes(content)
    limit, Image.MAX_IMAGE_PIXELS = (
        Image.MAX_IMAGE_PIXELS,
        1_000_000,
    )  # bounds the time
    try:
        with limited(f"image {ending}"):
            frames = list_frames(path)
            assert 1 <= len(frames) <= 10_000
            for frame in (path, frames[0], frames[-1]):
                try:
                    pixels = load_image(frame)
                except InputError as error:
                    check_sentence(error, path.name)
                    if frame == frames[-1]:
                        raise
                    continue
                assert pixels.dtype == np.uint8
                assert pixels.ndim == 3
                assert pixels.shape[2] == 3
                assert min(pixels.shape) >= 2
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# ------------------------------------------------------------------------------ models, the store


@cache
def _descriptors():
    return np.random.default_rng(0).normal(size=(12, 9, 5)).astype(np.float32)


@cache
def model_samples():
    """Return bytes of models without digest, because an attacker would write a right one."""
    x, y = _descriptors(), ["a", "b", "c"] * 4
    encoders = {
        "vlad": mv.VLAD(3, random_state=0, local_axes=True),
        "soft": mv.VLAD(2, random_state=0, assignment="soft", mass_norm=True),
        "fisher": mv.FisherVector(2, random_state=0),
        "avg": mv.GlobalPool(),
        "whitened": mv.VLAD(2, random_state=0),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, encoder in encoders.items():
            projection = mv.DescriptorProjection(3, whiten=True)
            before = [("descriptors", projection)] if name == "whitened" else []
            pipeline = Pipeline([*before, ("encode", encoder), ("classify", WideLinearSVC())]).fit(x, y)
            save_model(pipeline, Path(folder) / "m")
            with safe_open(Path(folder) / "m", framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
                header = json.loads(file.metadata()["medvlad"])
            header.pop("digest")
            found[name] = save(arrays, metadata={"medvlad": json.dumps(header)})
    return found


def check_model(folder, content):
    """Read the bytes as a model: it gives finite decisions, or reading is an error."""
    path = Path(folder) / "hostile.medvlad"
    path.write_bytes(content)
    with limited("model"):
        model_card(path)
        model = load_model(path)
        expected = model.steps[0][1].n_features_in_
        assert expected >= 1
        if expected == 5:
            assert np.isfinite(model.decision_function(_descriptors())).all()
            assert set(model.predict(_descriptors())) <= set(model.classes_)


def _image(i):
    return np.maximum(np.random.default_rng(i).normal(-1, 1, (i, 7)), 0).astype(np.float32)


@cache
def store_sample():
    """Return name and bytes of a shard of five images, one of which is empty."""
    with tempfile.TemporaryDirectory() as folder:
        section = DescriptorStore(folder).section(SETTINGS)
        with section.writer() as writer:
            for i in range(5):
                writer.add(f"{i:064x}", _image(i))
        (shard,) = section.path.glob("*.shard")
        return shard.name, shard.read_bytes()


def check_store(folder, content):
    """Read the bytes as a shard: the written numbers or none. Every difference must be reported."""
    name, good = store_sample()
    section = DescriptorStore(folder).section(SETTINGS)
    section.prepare()
    (section.path / name).write_bytes(content)
    with limited("store"):
        section = DescriptorStore(folder).section(SETTINGS)
        for i in range(5):
            values = section.get(f"{i:064x}")
            if values is not None:
                np.testing.assert_array_equal(values, _image(i))
        assert bool(section.verify()) == (content != good)
        list(section)


# -------------------------------------------------------------------------------------- arguments


def check_encode(values, offsets, weights, centers, **options):
    """Encode: both backends give the same vectors of norm 0 or 1, or the same error."""
    with limited("vlad_encode"):
        batch = Descriptors(values, offsets, weights)
        found = [mv.vlad_encode(batch, centers, backend=name, **options) for name in ("native", "reference")]
        for vectors in found:
            assert vectors.shape == (len(batch), np.asarray(centers).size)
            assert not np.isnan(vectors).any()
            if options["l2_norm"]:
                norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
                assert ((norms == 0) | (abs(norms - 1) < 1e-5)).all()
        np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-7)


def check_weighted(values, offsets, weights):
    """Assert that no encoder gives NaN for any weights."""
    with limited("weights"):
        batch = Descriptors(values, offsets, weights)
        for encoder in (mv.GlobalPool(), mv.GlobalPool("sum"), mv.GlobalPool("max"), mv.SecondOrderPool()):
            assert not np.isnan(encoder.fit(batch).transform(batch)).any(), encoder
