"""Tables of images in CSV files, and the empty images that their rows name."""

from pathlib import Path

from support.folders import touch


def write_table(path, *lines, images=True, encoding="utf-8"):
    """Write lines of comma-separated text and create the files that the first cells below the header name."""
    path.write_bytes("\n".join([*lines, ""]).encode(encoding))
    if images:
        for line in lines[1:]:
            name = line.split(",")[0].strip().strip('"')
            if name and not (path.parent / name).exists():
                touch(path.parent, name)
    return Path(path)


def names(data):
    """Return the file name of each image."""
    return [path.name for path in data.paths]
