"""Write the figures of a page into a folder as well: PNG, SVG, and their numbers as CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import make_output_folder
from medvlad.images.write import png
from medvlad.report.drawing import Drawing
from medvlad.report.html import Picture

__all__ = ["KeptFigures", "Named", "is_figure"]

Named = tuple[str, Picture, str]  # name of the file, picture, caption

_FIGURE = re.compile(
    r"(confusion|roc|precision|decisions|confidence|calibration|benefit|learning|subgroups|classes|"
    r"error[0-9]+|clusters)\.(png|svg|csv)"
)


def is_figure(name: str) -> bool:
    """Return whether a file of a folder of figures has a name that reports use."""
    return "-" in name and _FIGURE.fullmatch(name.rpartition("-")[2]) is not None


class KeptFigures:
    """Write pictures of a page into a folder as well.

    Parameters
    ----------
    folder : Path
        Created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = make_output_folder(folder, "figures of the report:")
        self._names = set[str]()

    def keep(self, encode: str, pictures: Iterable[Named]) -> list[tuple[Picture, str]]:
        """Write pictures of an encoding, and return them with their captions."""
        shown = []
        for name, picture, caption in pictures:
            self._write(f"{encode}-{name}.png", picture if isinstance(picture, bytes) else png(picture))
            if isinstance(picture, Drawing):
                self._write(f"{encode}-{name}.svg", picture.svg)
                self._write(f"{encode}-{name}.csv", picture.csv())
            shown.append((picture, caption))
        return shown

    def remove_others(self) -> None:
        """Remove figures of an earlier report that were not written again."""
        for figure in self._folder.glob("*-*"):
            if is_figure(figure.name) and figure.name not in self._names:
                figure.unlink()

    def _write(self, name: str, content: bytes) -> None:
        write_file(self._folder / name, content, "figure")
        self._names.add(name)
