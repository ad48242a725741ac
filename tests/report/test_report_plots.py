"""Figures: legends beside the data, readable with many classes, and harmless names."""

import io
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="needs the extra report")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn.metrics import roc_auc_score

from medvlad.report import curves, drawing, plots

EVIL = "<script>alert(1)</script>\"' onload=x & $a_b$"
LONG = [f"ulcerative-colitis-grade-{i}-of-the-colon" if i % 3 else f"class {i}" for i in range(50)]
BINS = [{"confidence": 0.6, "right": 0.5, "n": 25}, {"confidence": 0.9, "right": 1.0, "n": 25}]


@pytest.fixture
def figures(monkeypatch):
    """Figures in the order in which they become PNG."""
    kept = []
    png = drawing._png
    monkeypatch.setattr(drawing, "_png", lambda figure: kept.append(figure) or png(figure))
    return kept


def scores(rng, n_classes, n=200):
    labels = np.arange(n) % n_classes
    return labels, rng.normal(size=(n, n_classes)) + np.eye(n_classes)[labels]


def drawn(figure):
    """Lay a figure out, and return its renderer."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def boxes(texts, renderer):
    return [text.get_window_extent(renderer) for text in texts if text.get_text()]


def band(n, count):
    """A confusion matrix with equal counts on and beside its diagonal."""
    return ((np.abs(np.subtract.outer(range(n), range(n))) <= 1) * count).tolist()


def overlapping(found):
    """Pairs of boxes that cover one another by more than half a pixel."""
    return [
        (a, b)
        for i, a in enumerate(found)
        for b in found[i + 1 :]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]


def draw(kind, rng, names=("_hidden", EVIL, "c")):
    labels, decision = scores(rng, len(names))
    if kind == "confusion":
        return plots.confusion(np.diag(range(len(names))).tolist(), names)
    if kind == "reliability":
        return plots.reliability(BINS)
    if kind == "decision_values":
        return plots.decision_values(
            labels % 2, decision[:, 1], names[:2], {"decided at": 0.0, "adapted": 0.4}
        )
    if kind == "roc of two classes":
        return plots.roc(labels % 2, decision[:, :2], names[:2])
    return getattr(plots, kind)(labels, decision, names)


KINDS = ["confusion", "roc", "roc of two classes", "precision_recall", "reliability", "decision_values"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_a_picture_with_something_on_it(rng, kind):
    pixels = np.asarray(Image.open(io.BytesIO(draw(kind, rng))).convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.std() > 5


def test_a_figure_is_the_same_twice(rng):
    assert draw("confusion", rng) == draw("confusion", rng)


def test_a_figure_does_not_name_the_software(rng):
    assert not re.search(rb"Matplotlib", draw("confusion", rng))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_legend_hides_no_data(rng, figures, kind):
    draw(kind, rng)
    [figure] = figures
    renderer = drawn(figure)
    [legend] = figure.legends
    [axes] = figure.axes
    assert axes.get_legend() is None
    assert legend.get_window_extent(renderer).y1 <= axes.get_tightbbox(renderer).y0 + 1
    assert legend.get_window_extent(renderer).y0 >= 0


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_legend_is_not_wider_than_its_figure(rng, figures, kind):
    draw(kind, rng, ["w" * 40, "m" * 40, "c"])
    box = figures[0].legends[0].get_window_extent(drawn(figures[0]))
    assert box.x0 >= 0
    assert box.x1 <= figures[0].bbox.x1


@pytest.mark.parametrize("n", [2, 8, 9, 50])
def test_labels_of_a_confusion_matrix_do_not_overlap(n):
    figure = plots.confusion_figure(band(n, 250), LONG[:n])
    renderer = drawn(figure)
    [axes] = figure.axes
    rows = boxes(axes.get_yticklabels(), renderer)
    assert len(rows) == n
    assert overlapping(rows) == []
    columns = [text for text in axes.get_xticklabels() if text.get_rotation() == 90]
    assert overlapping(boxes(columns, renderer)) == []
    assert overlapping(boxes(axes.texts, renderer)) == []


def test_column_labels_of_many_classes_are_upright():
    figure = plots.confusion_figure(np.eye(50, dtype=int).tolist(), LONG)
    assert {text.get_rotation() for text in figure.axes[0].get_xticklabels()} == {90}


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_counts_of_many_classes_fit_into_their_cells(digits):
    figure = plots.confusion_figure(band(20, 10**digits - 1), LONG[:20])
    renderer = drawn(figure)
    cell = figure.axes[0].get_window_extent(renderer).width / 20
    assert max(box.width for box in boxes(figure.axes[0].texts, renderer)) < cell


def test_zeros_are_left_out_with_many_classes():
    figure = plots.confusion_figure(np.eye(50, dtype=int).tolist(), LONG)
    assert {text.get_text() for text in figure.axes[0].texts} == {"1"}
    figure = plots.confusion_figure(np.eye(5, dtype=int).tolist(), LONG[:5])
    assert {text.get_text() for text in figure.axes[0].texts} == {"0", "1"}


@pytest.mark.parametrize("kind", ["roc", "precision_recall"])
def test_of_many_classes_eight_curves_have_a_colour_of_their_own(rng, figures, kind):
    draw(kind, rng, LONG)
    lines = [line for line in figures[0].axes[0].lines if line.get_linestyle() == "-"]
    curves = [line for line in lines if line.get_color() not in (plots._GREY, "0.75")]
    assert len({line.get_color() for line in curves}) == len(curves) == 8
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert len(texts) == 9
    assert "42 other classes" in texts


def test_the_coloured_curves_are_those_of_the_worst_classes(rng, figures):
    labels, decision = scores(rng, 12)
    decision[:, :8] = -decision[:, :8]
    plots.roc(labels, decision, LONG[:12])
    texts = {text.get_text() for text in figures[0].legends[0].get_texts()}
    assert texts == {*plots.short_names(LONG[:12])[:8], "4 other classes"}


def test_short_names_keep_beginning_and_end():
    assert plots.short_names(["normal", "ulcerative-colitis-grade-3"], 20) == [
        "normal",
        "ulcerative-co…rade-3",
    ]


def test_short_names_stay_different():
    short = plots.short_names(LONG)
    assert len(set(short)) == len(short)
    assert max(map(len, short)) <= plots._NAME_LENGTH + len(" (33)")


@pytest.mark.parametrize("positive", [0, 1])
def test_curves_of_two_classes_are_those_of_the_positive_class(rng, figures, positive):
    """The curve through the operating point, and the area below it, are those of scikit-learn."""
    labels, values = np.arange(90) % 3 // 2, rng.normal(size=90)
    decision = np.column_stack([-values, values])
    plots.roc(labels, decision, ["first", "second"], positive)
    curve, point, _ = figures[0].axes[0].lines
    assert curve.get_label() == ["first", "second"][positive]
    area = np.trapezoid(curve.get_ydata(), curve.get_xdata())
    assert area == pytest.approx(roc_auc_score(labels == positive, decision[:, positive]))
    found, own = decision.argmax(axis=1) == positive, labels == positive
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (found[~own].mean(), found[own].mean())


@pytest.mark.parametrize("positive", [0, 1])
def test_precision_is_that_of_the_positive_class(rng, figures, positive):
    """With recall 1, precision is the share of the class."""
    labels, values = np.arange(90) % 3 // 2, rng.normal(size=90)
    plots.precision_recall(labels, np.column_stack([-values, values]), ["first", "second"], positive)
    [curve] = figures[0].axes[0].lines
    assert curve.get_label() == ["first", "second"][positive]
    assert curve.get_ydata()[0] == pytest.approx((labels == positive).mean())


def test_decision_values_are_those_of_the_positive_class(rng, figures):
    plots.decision_values(np.arange(60) % 2, rng.normal(size=60), ["first", "second"], {"at": 0.5}, 0)
    assert figures[0].axes[0].get_xlabel() == "decision value of first"


def test_the_line_of_a_learning_curve_averages_one_share_of_the_images(figures):
    """The repetition with one image more has one halving more."""
    sizes = [[(0.25, 15), (0.5, 31), (1.0, 63)]] * 4 + [[(0.125, 8), (0.25, 16), (0.5, 32), (1.0, 64)]]
    metrics = {"accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 0.5, "n_patients": None}
    found = [
        {"repeat": repeat, "share": share, "n_images": n} | metrics
        for repeat, listed in enumerate(sizes)
        for share, n in listed
    ]
    curves.learning_plot(found)
    line = next(one for one in figures[-1].axes[0].lines if one.get_label() == "balanced accuracy")
    np.testing.assert_allclose(line.get_xdata(), [8, 15.2, 31.2, 63.2])
