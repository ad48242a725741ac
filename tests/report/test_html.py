"""Pages: one file, nothing from elsewhere, and harmless whatever names the data set has."""

import html.parser
import io
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


def test_a_page_holds_everything_it_shows(page):
    found = Tags(page.html())
    sources = [attributes["src"] for tag, attributes in found.tags if tag == "img"]
    assert len(sources) == 1
    assert all(source.startswith("data:image/") for source in sources)
    assert not any("href" in attributes or tag == "link" for tag, attributes in found.tags)
    assert "url(" not in page.html()
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_columns_of_numbers_are_aligned_to_the_right(page):
    text = page.html()
    assert text.count('<th class="number">') == 2
    assert ">0.123<" in text
    assert '<td class="number">-</td>' in text


def test_a_page_that_cannot_be_written_is_an_input_error(page, tmp_path):
    with pytest.raises(InputError, match="folder"):
        page.write(tmp_path)


def browser():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="no headless Chromium here")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_nothing_wider_than_the_window(page, tmp_path, width):
    """The picture is there, and nothing runs over the right edge."""
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


def test_what_follows_a_line_break_in_a_cell_is_smaller():
    page = Page("t")
    page.table(["", "accuracy"], [["a <b>", "0.900\n0.800 to 0.950"]])
    assert "<td>0.900<br><small>0.800 to 0.950</small></td>" in page.html()
    assert "a &lt;b&gt;" in page.html()


def details(values):
    page = Page("t")
    page.details("Settings", values)
    return Tags(page.html())


def test_details_show_no_python_dictionary():
    found = details({"recipe": {"power": 0.5, "tiles": {"rows": 2}}, "steps": [{"name": "pca"}], "empty": {}})
    assert not set(found.text.partition("Settings")[2]) & set("{}[]'")
    for line in ("power: 0.5", "rows: 2", "name: pca", "emptynone"):
        assert line in found.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not set"),
        (True, "yes"),
        (False, "no"),
        (1.0, "1"),
        (0.0001, "0.0001"),
        ([0, 1], "0, 1"),
        ([[7, 7], [4, 4]], "(7, 7), (4, 4)"),
        ([], "none"),
        ("auto", "auto"),
    ],
)
def test_details_show_values_without_python_syntax(value, text):
    assert f"name{text}\n" in details({"name": value}).text


def test_a_large_figure_is_shown_in_its_own_size():
    """A pixel of the figure is 96/130 of one of the page, and the reader scrolls sideways."""
    png = io.BytesIO()
    Image.new("RGB", (2600, 260)).save(png, "PNG")
    page = Page("t")
    page.pictures([(png.getvalue(), "caption")], "natural")
    [image] = [attributes for tag, attributes in Tags(page.html()).tags if tag == "img"]
    assert image["width"] == "1920"
    assert '<div class="scroll"><img' in page.html()
