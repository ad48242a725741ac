"""Planted borders and boxes of one colour."""

import numpy as np
import pytest
from PIL import ImageDraw
from support.planted import SIDE, audited, findings, picture, save, shortcuts, write_set

from medvlad.audit.images import read_facts


def facts_of(image, tmp_path, **options):
    [facts] = read_facts([save(image, tmp_path / "x.jpg", quality=90, **options)], n_threads=1)
    return facts


PLACES = {
    "top left": (0, 0, 24, 16),
    "top right": (72, 0, 95, 16),
    "bottom left": (0, 60, 40, 95),
    "bottom right": (80, 70, 95, 95),
    "top": (30, 0, 60, 12),
    "left": (0, 30, 20, 70),
}


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (20, 120, 60)])
@pytest.mark.parametrize("place", PLACES)
def test_a_box_is_found_with_place_colour_and_share(rng, tmp_path, place, colour):
    image = picture(rng).resize((5 * SIDE, 4 * SIDE))
    x0, y0, x1, y1 = PLACES[place]
    ImageDraw.Draw(image).rectangle((5 * x0, 4 * y0, 5 * x1 + 4, 4 * y1 + 3), fill=colour)
    [box] = facts_of(image, tmp_path).boxes
    assert box.place == place
    assert box.colour == {0: "black", 255: "white", 20: "one colour"}[colour[0]]
    assert box.share == pytest.approx((x1 + 1 - x0) * (y1 + 1 - y0) / SIDE**2, rel=0.2)


@pytest.mark.parametrize("shape", ["nothing", "round view", "bars", "inside", "blank", "half"])
def test_other_uniform_areas_are_no_boxes(rng, tmp_path, shape):
    image = picture(rng, 400)
    draw = ImageDraw.Draw(image)
    if shape == "round view":
        for x in (0, 399):
            for y in (0, 399):
                draw.polygon([(x, y), (abs(x - 130), y), (x, abs(y - 130))], fill=0)
    elif shape == "bars":
        draw.rectangle((0, 0, 399, 40), fill=0)
        draw.rectangle((0, 350, 399, 399), fill=0)
    elif shape == "inside":
        draw.rectangle((150, 150, 250, 250), fill=0)
    elif shape == "blank":
        draw.rectangle((0, 0, 399, 399), fill=0)
    elif shape == "half":
        draw.rectangle((0, 0, 200, 399), fill=0)
    assert facts_of(image, tmp_path).boxes == ()


def test_a_picture_without_a_border_has_none(rng, tmp_path):
    assert max(facts_of(picture(rng, 400), tmp_path).border) < 0.01


def test_a_border_is_measured_on_each_side(rng, tmp_path):
    image = picture(rng, 400)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 399, 39), fill=(250, 250, 250))
    draw.rectangle((380, 0, 399, 399), fill=(250, 250, 250))
    facts = facts_of(image, tmp_path)
    np.testing.assert_allclose(facts.border, [0.1, 0, 0, 0.05], atol=0.01)
    assert facts.border_colour == "white"


def painted(image):
    ImageDraw.Draw(image).rectangle((0, 70, 30, 95), fill=0)
    return image


def test_a_box_that_goes_with_the_class_is_a_warning(rng, tmp_path):
    def make(image, part, name, i):
        return painted(image) if i % 2 or name == "b" else image

    one = findings(audited(write_set(tmp_path, rng, make=make)))["uniform_box"]
    assert (one["place"], one["colour"], one["n_images"]) == ("bottom left", "black", 60)
    assert one["shares"] == {"a": 0.5, "b": 1.0}
    assert one["severity"] == "warning"


def test_a_box_that_all_classes_have_is_a_note(rng, tmp_path):
    def make(image, part, name, i):
        return painted(image) if i % 2 else image

    found = audited(write_set(tmp_path, rng, make=make))
    one = findings(found)["uniform_box"]
    assert (one["severity"], one["shares"]) == ("note", {"a": 0.5, "b": 0.5})
    assert "goes with the class" not in one["sentence"]
    assert not shortcuts(found)
