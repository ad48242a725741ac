"""Make the pictures of docs/gallery.md from reports.

    python docs/gallery_pictures.py chest=RESULTS rooms=RESULTS

Each RESULTS is a folder of 'medvlad evaluate --out' or 'medvlad external --out'. Figures become small
and get 64 colours. If Chromium is installed, the top of each page is photographed at 1200 and 400
pixels.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).parent / "static" / "gallery"
WIDTH = 520  # pixels of a figure
COLOURS = 64


def small(source: Path, target: Path, width: int, colours: int = COLOURS) -> None:
    """Write a smaller picture with few colours."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    size = width, round(picture.height * width / picture.width)
    picture.resize(size, Image.Resampling.LANCZOS).quantize(colours).save(target, optimize=True)


def photograph(page: Path, target: Path, width: int, height: int) -> None:
    """Photograph the top of a page. Without Chromium nothing is written."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        command += [f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        small(shot, target, min(width, 900), 256)


def main() -> None:
    """Make the pictures of each report that was named."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for argument in sys.argv[1:]:
        name, _, folder = argument.partition("=")
        for figure in sorted(Path(folder, "figures").glob("*.png")):
            small(figure, PICTURES / f"{name}-{figure.name}", WIDTH)
        photograph(Path(folder, "report.html"), PICTURES / f"{name}-page-1200.png", 1200, 1000)
        photograph(Path(folder, "report.html"), PICTURES / f"{name}-page-400.png", 400, 1000)


if __name__ == "__main__":
    main()
