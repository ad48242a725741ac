"""The number of processors that a process may use, with a file system of cgroups made for the test."""

import os

import pytest

from medvlad._util import processors, validate
from medvlad._util.processors import Processors, usable_processors
from medvlad.cli.doctor import diagnose

V1 = "33 31 0:30 {shown} /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct"
V2 = "41 31 0:38 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes the root of a machine with 16 processors, whose quotas stand in files."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def make(groups, mounts, **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        (tmp_path / "proc/self/mountinfo").write_text("23 1 0:21 / / rw - ext4 /dev/a rw\n" + mounts)
        for name, text in files.items():
            file = tmp_path / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


def test_version_2_in_a_container(machine):
    root = machine("0::/\n", V2.format(shown="/"), cpu_DOT_max="250000 100000\n")
    assert usable_processors(root) == Processors(3, "CPU quota of 2.5 processors in /sys/fs/cgroup/cpu.max")


def test_version_2_without_a_quota(machine):
    root = machine("0::/\n", V2.format(shown="/"), cpu_DOT_max="max 100000\n")
    assert usable_processors(root) == Processors(16, "processors of this machine")


def test_the_quota_of_a_parent_binds(machine):
    files = {"a__cpu_DOT_max": "200000 100000", "a__b__cpu_DOT_max": "800000 100000"}
    root = machine("0::/a/b\n", V2.format(shown="/"), **files)
    assert usable_processors(root) == Processors(2, "CPU quota of 2 processors in /sys/fs/cgroup/a/cpu.max")


def test_the_quota_of_another_group_does_not_bind(machine):
    files = {"a__cpu_DOT_max": "200000 100000", "b__cpu_DOT_max": "max 100000"}
    root = machine("0::/b\n", V2.format(shown="/"), **files)
    assert usable_processors(root).number == 16


def test_version_1(machine):
    files = {"cpu__slurm__cpu.cfs_quota_us": "400000\n", "cpu__slurm__cpu.cfs_period_us": "100000\n"}
    groups = "5:memory:/slurm\n4:cpu,cpuacct:/slurm\n0::/\n"
    root = machine(groups, V1.format(shown="/"), **files)
    limit = "CPU quota of 4 processors in /sys/fs/cgroup/cpu/slurm/cpu.cfs_quota_us"
    assert usable_processors(root) == Processors(4, limit)


def test_version_1_without_a_quota(machine):
    files = {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}
    root = machine("4:cpu,cpuacct:/\n", V1.format(shown="/"), **files)
    assert usable_processors(root).number == 16


def test_version_1_in_a_container_that_sees_its_own_group_only(machine):
    files = {"cpu__cpu.cfs_quota_us": "50000\n", "cpu__cpu.cfs_period_us": "100000\n"}
    root = machine("4:cpu,cpuacct:/docker/a1\n", V1.format(shown="/docker/a1"), **files)
    assert usable_processors(root).number == 1  # half a processor


def test_affinity_rules_if_it_is_smaller_than_the_quota(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    root = machine("0::/\n", V2.format(shown="/"), cpu_DOT_max="400000 100000")
    assert usable_processors(root) == Processors(2, "processor affinity of this process")


@pytest.mark.parametrize("text", ["", "abc", "100000 0", "max", "1 2 3"])
def test_a_file_without_sense_is_no_quota(machine, text):
    root = machine("0::/\n", V2.format(shown="/"), cpu_DOT_max=text)
    assert usable_processors(root).number == 16


def test_a_machine_without_cgroups_has_its_processors(machine, tmp_path):
    assert usable_processors(tmp_path / "nothing").number == 16


def test_a_quota_that_changes_is_read_again(machine):
    root = machine("0::/\n", V2.format(shown="/"), cpu_DOT_max="400000 100000")
    assert usable_processors(root).number == 4
    (root / "sys/fs/cgroup/cpu.max").write_text("200000 100000")
    assert usable_processors(root).number == 2


def test_threads_follow_the_limit_and_doctor_names_it(monkeypatch):
    limited = Processors(3, "CPU quota of 2.5 processors in /sys/fs/cgroup/cpu.max")
    for module in (processors, validate):
        monkeypatch.setattr(module, "usable_processors", lambda: limited)
    assert validate.check_n_threads(None) == 3
    found = diagnose()
    assert (found["threads"], found["limit_of_threads"]) == tuple(limited)
