"""Find the examples of a documentation page: blocks of Python and commands."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```(\S*)\n(.*?)^```$|^((?: {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A block of Python, or one command with the output that the page shows (None: no output)."""

    kind: str  # "python" or "shell"
    text: str
    output: str | None = None

    @property
    def words(self):
        """Return the words of a command, without its comment."""
        return shlex.split(self.text, comments=True)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def examples(page):
    """Yield the examples of a page in order: ```python, ```console with prompts, and indented commands."""
    found = []
    blocks = list(_BLOCK.finditer(page.read_text("utf-8")))
    for block in blocks:
        language, body, indented = block.groups()
        if language == "python":
            shown = [b for b in blocks if b.start() == block.end() + 2 and b[1] == "text"]
            found.append(Example("python", body, shown[0][2] if shown else None))
        elif language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append(Example("shell", command, output))
        elif indented:
            joined = re.sub(r"\\\n\s*", " ", indented)
            lines = map(str.strip, joined.splitlines())
            found += [Example("shell", line) for line in lines if re.match(r"(medvlad|pip) ", line)]
    return found
