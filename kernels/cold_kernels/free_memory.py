"""How much memory there is for what grows with the load."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# What limits a container, by the version of control groups: its limit, what it uses, and the field
# of memory.stat that tells how much of that is files which can be read again.
_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that are free on a device; of a CPU, what can be had without swapping.

    Args:
        device: whose memory.
        root: of the file system where the kernel tells it.
    """
    if device.type == "cpu":
        return min([_of_machine(root), *_of_container(root / "sys/fs/cgroup")])
    free, _ = getattr(torch, device.type).mem_get_info(device)
    return int(free)


def _of_machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(kilobytes) * 1024


def _of_container(folder: Path) -> list[int]:
    found = []
    for limit, used, files in _CGROUPS:
        try:
            most, now = (int((folder / name).read_text()) for name in (limit, used))
            stat = (folder / limit).with_name("memory.stat").read_text()
        except (OSError, ValueError):  # no such group, or "max"
            continue
        again = next((line.split()[1] for line in stat.splitlines() if line.split()[0] == files), 0)
        found.append(max(0, most - now + int(again)))
    return found
