"""Tables of many rows: folders are listed once, and the time stays near that of reading the CSV alone."""

import csv
import gc
import os
import time
from pathlib import Path

import pytest

import medvlad as mv

N_FOLDERS = 20


def folders_of_images(root, n):
    """Create n images, most of them links to one file, and a table of them. Return its path."""
    (root / "one.png").touch()
    lines = ["path,label,patient,split,site"]
    for k in range(N_FOLDERS):
        (root / f"d{k}").mkdir()
    for i in range(n):
        name = f"d{i % N_FOLDERS}/image_{i:07d}.png"
        if i % 20_000 == 0:  # a file can have 65,000 links
            (root / name).touch()
            first = root / name
        else:
            os.link(first, root / name)
        lines.append(f"{name},{'xy'[i % 3 == 0]},P{i // 8},{('test', 'train', 'train')[i // 8 % 3]},S{i % 5}")
    (root / "t.csv").write_text("\n".join(lines))
    return root / "t.csv"


def test_folders_are_listed_once_and_no_file_is_asked_for_singly(tmp_path, monkeypatch):
    table = folders_of_images(tmp_path, 400)
    listed = []
    scandir = os.scandir

    def counting(folder):
        listed.append(folder)
        return scandir(folder)

    def refuse(self):
        raise AssertionError(f"{self} was asked for singly")

    monkeypatch.setattr(os, "scandir", counting)
    monkeypatch.setattr(Path, "is_file", refuse)
    assert len(mv.load_manifest(table)) == 400
    assert len(listed) == N_FOLDERS


@pytest.fixture
def few_objects():
    """Hide what earlier tests have left from the garbage collector, which would search all of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_a_few_times_as_long_as_reading_the_csv(tmp_path, few_objects):
    """Measured in processor time, in the least disturbed of five rounds."""
    table = folders_of_images(tmp_path, 100_000)
    mv.load_manifest(table)  # imports

    def of_least():
        started = time.process_time()
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len([tmp_path / row[0] for row in rows]) == 100_001
        return time.process_time() - started

    def of_manifest():
        started = time.process_time()
        assert len(mv.load_manifest(table)) == 100_000
        return time.process_time() - started

    rounds = [(of_least(), of_manifest()) for _ in range(5)]
    assert min(taken / least for least, taken in rounds) < 3
