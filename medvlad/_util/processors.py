"""Count the processors that this process may use: machine, affinity, and CPU quota of the cgroup.

A container with ``limits.cpu: 2`` sees all processors of its machine, and the kernel stops its threads when
they have used 2 seconds of processor time in a second. More threads than that only wait for each other.

A quota stands in a file of a cgroup::

    version 2   cpu.max             "200000 100000": microseconds in each period, or "max 100000": no quota
    version 1   cpu.cfs_quota_us    "200000", or "-1": no quota; the period is in cpu.cfs_period_us

The quota of a parent binds its children too, so the smallest one on the way to the root counts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Processors", "usable_processors"]

_QUOTA_FILES = ("cpu.max", "cpu.cfs_quota_us")


class Processors(NamedTuple):
    """Number of processors that this process may use, and what limits it.

    Attributes
    ----------
    number : int
        At least 1. A quota is rounded up.
    limit : str
        The limit in words, such as "CPU quota of 1.5 processors in /sys/fs/cgroup/cpu.max".
    """

    number: int
    limit: str


def usable_processors(root: Path = Path("/")) -> Processors:
    """Return how many processors this process may use.

    Affinity and quotas are read again on every call, because both can change.

    Parameters
    ----------
    root : Path, default=Path("/")
        Folder that holds ``proc`` and the cgroup file systems. Tests give another one.

    Returns
    -------
    Processors
    """
    found = Processors(os.cpu_count() or 1, "processors of this machine")
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
        found = Processors(
            allowed, found.limit if allowed >= found.number else "processor affinity of this process"
        )
    for file in _quota_files(root):
        quota = _quota(file)
        if quota is not None and max(1, math.ceil(quota)) < found.number:
            found = Processors(
                max(1, math.ceil(quota)), f"CPU quota of {quota:g} processors in /{file.relative_to(root)}"
            )
    return found


def _quota(file: Path) -> float | None:
    """Return the quota in a file, in processors. None: there is none."""
    try:
        if file.name == "cpu.max":
            quota, period = file.read_text(encoding="ascii").split()
        else:
            quota = file.read_text(encoding="ascii")
            period = file.with_name("cpu.cfs_period_us").read_text(encoding="ascii")
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


@cache
def _quota_files(root: Path) -> tuple[Path, ...]:
    """Return the quota files of the cgroups that hold this process, and of their parents."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return ()
    files = []
    for mount, folder in _cpu_mounts(mounts):
        for line in groups:
            number, controllers, path = [*line.split(":", 2), "", ""][:3]
            is_v2 = number == "0" and not controllers
            if is_v2 == (folder.kind == "cgroup2") and (is_v2 or "cpu" in controllers.split(",")):
                files += [root / file for file in _on_the_way(mount, folder.root, path)]
    return tuple(file for file in files if file.is_file())


class _Hierarchy(NamedTuple):
    """A mounted tree of cgroups: its type, and the cgroup that its mount point shows."""

    kind: str
    root: str


def _cpu_mounts(lines: list[str]) -> Iterator[tuple[str, _Hierarchy]]:
    """Yield the mount points of cgroup version 2, and of the controller cpu of version 1."""
    for line in lines:
        # "36 35 0:29 ROOT MOUNT_POINT options - TYPE source super_options"
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), [*after.split(), "", "", ""][:3]
        if len(fields) > 4 and (kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(","))):
            yield fields[4].lstrip("/"), _Hierarchy(kind, fields[3])


def _on_the_way(mount: str, shown: str, group: str) -> Iterator[Path]:
    """Yield where quotas can stand, from the cgroup `group` up to the mount point, which shows `shown`.

    A container may see its own cgroup at the mount point only, although `group` names it from the root.
    """
    shown = shown.rstrip("/")
    inside = group[len(shown) :] if f"{group}/".startswith(f"{shown}/") else group
    parts = [part for part in inside.split("/") if part and part != ".."]
    for n in range(len(parts), -1, -1):
        for name in _QUOTA_FILES:
            yield Path(mount, *parts[:n], name)
