"""Pages and figures: one file, nothing from elsewhere, names that are somebody else's do no harm."""

import html.parser
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from medvlad import InputError
from medvlad.report.html import Page

EVIL = "<script>alert(1)</script>\"' onload=x & $a_b$"


class Tags(html.parser.HTMLParser):
    """Collects tags, their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page():
    page = Page(EVIL, EVIL)
    page.heading(EVIL)
    page.paragraph(EVIL, "warning")
    page.table([EVIL, "b", "c"], [[EVIL, 1, 0.12345], ["x", None, 2.0]], EVIL)
    page.pictures([(Image.new("RGB", (300, 200), "red"), EVIL)])
    page.details(EVIL, {EVIL: [EVIL]})
    return page


def test_texts_are_escaped(page):
    found = Tags(page.html())
    assert "script" not in {tag for tag, _ in found.tags}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert found.text.count(EVIL) >= 8


def test_it_holds_everything_it_shows(page):
    found = Tags(page.html())
    sources = [attributes["src"] for tag, attributes in found.tags if tag == "img"]
    assert len(sources) == 1
    assert all(source.startswith("data:image/") for source in sources)
    assert not any("href" in attributes or tag == "link" for tag, attributes in found.tags)
    assert "url(" not in page.html()
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_columns_of_numbers_stand_to_the_right(page):
    text = page.html()
    assert text.count('<th class="number">') == 2
    assert ">0.123<" in text
    assert '<td class="number">-</td>' in text


def test_a_page_that_cannot_be_written(page, tmp_path):
    with pytest.raises(InputError, match="folder"):
        page.write(tmp_path)


def browser():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="no headless Chromium here")
@pytest.mark.parametrize("width", [1200, 500])
def test_in_a_browser(page, tmp_path, width):
    """Nothing is wider than the window, no script runs, the picture is there."""
    page.table([f"a long column {i}" for i in range(12)], [["value " * 3] * 12])
    path = page.write(tmp_path / "page.html")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={width},2000",
    ]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--force-device-scale-factor=1"]
    shot = tmp_path / "shot.png"
    subprocess.run(
        [browser(), *options, f"--screenshot={shot}", path.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape[1] == width
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(axis=2) < 60)
    assert red.sum() > 30_000
    assert (pixels[:, -4:] > 250).all(), "something runs over the right edge"


def test_figures_are_pictures(rng):
    figures = pytest.importorskip("medvlad.report.plots", reason="needs the extra report")
    pytest.importorskip("matplotlib", reason="needs the extra report")
    labels = rng.integers(0, 3, 50)
    decision = rng.normal(size=(50, 3)) + np.eye(3)[labels]
    names = ["_hidden", EVIL, "c"]
    bins = [{"confidence": 0.6, "right": 0.5, "n": 25}, {"confidence": 0.9, "right": 1.0, "n": 25}]
    two = decision[:, :2]
    drawn = [
        figures.confusion([[3, 1, 0], [0, 4, 2], [1, 1, 9]], names),
        figures.roc(labels, decision, names),
        figures.roc(labels % 2, two, names[:2]),
        figures.precision_recall(labels, decision, names),
        figures.reliability(bins),
        figures.decision_values(labels % 2, decision[:, 1], names[:2], {"decided at": 0.0, "adapted": 0.4}),
    ]
    for png in drawn:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 5
    assert drawn[0] == figures.confusion([[3, 1, 0], [0, 4, 2], [1, 1, 9]], names), "the same twice"
    assert not re.search(rb"Matplotlib", drawn[0])


def test_what_is_below_a_figure_is_smaller():
    page = Page("t")
    page.table(["", "accuracy"], [["a <b>", "0.900\n0.800 to 0.950"]])
    assert "<td>0.900<br><small>0.800 to 0.950</small></td>" in page.html()
    assert "a &lt;b&gt;" in page.html()
