"""Pictures of a report: which errors, which evidence, and from where in an image."""

import numpy as np
import pytest
from PIL import Image
from support.evaluations import GRID, make_evaluation

from medvlad import Descriptors, GlobalPool, WideLinearSVC
from medvlad.explain import evidence_map, evidence_picture
from medvlad.report.explanations import explain_page
from medvlad.report.pictures import confident_errors, grid_in_words


def quarters(place, value=255):
    """An image whose quarter `place` is lit."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    row, column = divmod(place, 2)
    pixels[20 * row : 20 * row + 20, 20 * column : 20 * column + 20] = value
    return pixels


@pytest.mark.parametrize("label", [0, 1])
def test_evidence_is_red_for_the_label_that_is_asked_for(label):
    """Class 1 is told by the second number of a descriptor, class 0 by the first."""
    kinds = [0, 1] * 6
    images = []
    for kind in kinds:
        x = np.zeros((4, 2), np.float32)
        x[0, kind] = 1.0
        images.append(x)
    descriptors = Descriptors.from_list(images)
    pool = GlobalPool().fit(descriptors)
    svm = WideLinearSVC().fit(pool.transform(descriptors), kinds)
    own, other = (
        evidence_map(GRID, [pool, svm], descriptors[label : label + 1], asked) for asked in (label, 1 - label)
    )
    largest = np.abs(own).max()
    picture = evidence_picture(quarters(0, 100), own, largest)
    colour = np.asarray(picture)[60, 8 + 448 + 60].astype(int)  # the first quarter of the right half
    assert colour[0] > colour[2] + 50, "red: its place speaks for its own class"
    picture = evidence_picture(quarters(0, 100), other, largest)
    colour = np.asarray(picture)[60, 8 + 448 + 60].astype(int)
    assert colour[2] > colour[0] + 50, "blue: and against the other"


def test_maps_of_one_scale_have_the_same_colour_for_the_same_value():
    weak, strong = np.full((2, 2), 0.5), np.full((2, 2), 1.0)
    right = 8 + 448 + 60
    pixels = quarters(0, 100)
    both = [np.asarray(evidence_picture(pixels, one, 1.0))[400, right].astype(int) for one in (weak, strong)]
    assert both[1][0] > both[0][0] + 50
    assert both[0][0] > both[0][2] + 50


def test_a_colour_bar_is_beside_the_map():
    """Red at its top, blue at its bottom, grey between them, and labels right of it."""
    shown = np.asarray(evidence_picture(quarters(0), np.zeros((2, 2)), 0.25)).astype(int)
    left = 2 * 448 + 8 + 8
    bar = shown[:, left + 12]
    assert bar[0, 0] > bar[0, 2] + 80
    assert bar[-1, 2] > bar[-1, 0] + 80
    np.testing.assert_allclose(bar[224], 200, atol=3)
    labels = shown[:, left + 24 + 8 :]
    for rows in (slice(0, 30), slice(210, 240), slice(-30, None)):
        assert (labels[rows] < 100).any()
    assert (labels[40:200] == 255).all()


def test_a_picture_that_is_very_wide_has_a_colour_bar_as_well():
    shown = evidence_picture(np.zeros((4, 200, 3), np.uint8), np.zeros((2, 2)), 0.25)
    assert shown.height == 9
    assert shown.width > 2 * 448 + 8 + 24


def test_the_grid_is_that_of_the_finest_scale():
    assert grid_in_words(((7, 7), (17, 16), (7, 7))) == "17 x 16"


@pytest.fixture
def evaluation(rng, tmp_path):
    """Forty images of two classes, some of which are decided wrongly."""
    encoders = {"avg": GlobalPool(), "gem": GlobalPool("gem")}
    return make_evaluation(rng, tmp_path, encoders=encoders)


@pytest.fixture
def ranked(evaluation):
    """Rows of the wrong decisions of avg, the most confident first, and by how much each wins."""
    one = evaluation.decided["avg"]
    labels = evaluation.dataset.labels[one.tested]
    lead = one.decision[np.arange(40), 1 - labels]  # of two classes, what stands in predictions.csv
    wrong = np.flatnonzero(lead > 0)
    assert len(wrong) > 6
    return wrong[np.argsort(-lead[wrong])], lead


def test_the_most_confident_errors_come_first(evaluation, ranked):
    one = evaluation.decided["avg"]
    labels = evaluation.dataset.labels[one.tested]
    rows, lead = ranked
    captions = [error.caption for error in confident_errors(evaluation, one)]
    truth, decided = (np.array(list("ab"))[labels ^ flip] for flip in (0, 1))
    assert captions == [
        f"image {one.tested[row]}.png: {truth[row]}, decided {decided[row]} by {lead[row]:.2f}"
        for row in rows[:6]
    ]


def test_the_evidence_of_an_error_is_that_for_the_wrong_class(evaluation, ranked):
    one = evaluation.decided["avg"]
    labels = evaluation.dataset.labels[one.tested]
    for row, error in zip(ranked[0], confident_errors(evaluation, one), strict=False):
        image = int(one.tested[row])
        fold = next(fold for fold in one.fitted if image in fold.test)
        own = evidence_map(
            GRID,
            [fold.encoder, fold.head],
            evaluation.descriptors[image : image + 1],
            1 - labels[row],
        )
        assert error.image == evaluation.dataset.paths[image]
        np.testing.assert_array_equal(error.evidence, own)


def test_an_encoding_that_cannot_be_split_shows_no_errors(evaluation):
    assert list(confident_errors(evaluation, evaluation.decided["gem"])) == []


def test_a_page_of_evidence_counts_images_without_a_label(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    scores = {"lying": 0.1, "upright": -0.1}
    predictions = [
        {"image": name, "label": label, "scores": scores, "evidence": "a.png"}
        for name, label in (("1.png", None), ("2.png", "lying"))
    ]
    page = explain_page(predictions, tmp_path, "exactly").read_text()
    assert "lying: 1, no label: 1" in page
