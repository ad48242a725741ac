"""A store that is read-only, removed, truncated, unreadable for a while or dated in the future."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.faults import SETTINGS, descriptors, files, fill, key_of, section_of, whole_store

from medvlad import InputError, StoredDescriptors
from medvlad.store.store import DescriptorStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and signals of Linux")


def test_a_read_only_store_is_read_and_an_error_names_it(tmp_path):
    """The store is mounted read-only in a separate mount namespace."""
    fill(tmp_path / "store", 4)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from support import faults; from pathlib import Path\n"
        "from medvlad import InputError; s = Path(sys.argv[2]); faults.whole_store(s, 4); faults.fill(s, 4)\n"
        "for work in (lambda: faults.fill(s, 5), lambda: faults.section_of(s).gc()):\n"
        "    try: work()\n"
        "    except InputError as error: print(error)"
    )
    mount = 'mount --bind "$2" "$2" && mount -o remount,ro,bind "$2" && exec "$0" -c "$3" "$1" "$2"'
    allowed = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "true", "", tmp_path / "store", ""],
        capture_output=True,
        check=False,
    )
    if allowed.returncode != 0:
        pytest.skip(f"mount namespaces are not allowed here: {allowed.stderr.decode().strip()}")
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            mount,
            sys.executable,
            Path(__file__).parents[1],
            tmp_path / "store",
            script,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert "cannot be written: Read-only file system; what is in it stays" in lines[0]
    assert "cannot be tidied: Read-only file system" in lines[1]


def test_a_store_removed_during_a_run_is_an_error(tmp_path, monkeypatch):
    """Images that are not yet in a shard are never lost silently. The next run fills the store again."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 2)
    section = fill(tmp_path / "store", 4)
    stored = StoredDescriptors(section, [key_of(i) for i in range(4)])
    writer = section.writer()
    writer.add(key_of(4), descriptors(4))
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(InputError, match=r"store .*cannot be written: No such file"):
        writer.add(key_of(5), descriptors(5))
    with pytest.raises(InputError, match="damaged or gone: run 'medvlad store gc"):
        stored.load()
    fill(tmp_path / "store", 6)
    whole_store(tmp_path / "store", 6)


def test_a_shard_truncated_while_it_is_read_is_damaged(tmp_path):
    """A memory map would end the process with SIGBUS."""
    section = fill(tmp_path / "store", 200)
    assert section.get(key_of(0)) is not None
    (shard,) = section.path.glob("*.shard")
    os.truncate(shard, shard.stat().st_size // 2)
    assert section.get(key_of(199)) is None
    fill(tmp_path / "store", 200)
    whole_store(tmp_path / "store", 200)


def test_unreadable_shards_are_not_removed_as_damaged(tmp_path, monkeypatch):
    """A disk that fails to read for a while must not make gc remove shards."""
    section = fill(tmp_path / "store", 4)
    before = files(section.path)

    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("os.pread", failing)
        for use in (lambda: section_of(tmp_path / "store"), section.verify, section.gc):
            with pytest.raises(InputError, match=r"\.shard cannot be opened or read \(Input/output error\)"):
                use()
    assert {name: content for name, content in files(section.path).items() if name != "gc.lock"} == before
    whole_store(tmp_path / "store", 4)


@pytest.mark.parametrize("now", [0.0, 86400.0 * 365, 4102444800.0], ids=["1970", "1971", "2100"])
def test_wrong_clocks_neither_lose_images_nor_stop_writers(tmp_path, monkeypatch, now):
    """Files have times in the past and the future, and the clock jumps."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 8)
    for n in (3, 5, 9):
        section = fill(tmp_path / "store", n)
    times = iter([0, 4102444800, 10**9, 1, 2 * 10**9] * 9)
    living, dead = section.path / ".living.part", section.path / ".dead.part"
    dead.write_bytes(b"1")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for one in sorted(section.path.iterdir()):
            os.utime(one, (moment := next(times), moment))
        past = now - 10**8 if now > 10**9 else now + 10**9
        for part in (living, dead):
            os.utime(part, (max(past, 0), max(past, 0)))
        monkeypatch.setattr(time, "time", lambda: now)
        section.gc()
        assert living.exists()
        assert not dead.exists()
    fill(tmp_path / "store", 12)
    whole_store(tmp_path / "store", 12)
    section.gc()
    assert not living.exists()
    assert [one.settings for one in DescriptorStore(tmp_path / "store").sections()] == [SETTINGS]
