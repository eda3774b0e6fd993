"""What processes and the machine use, as Linux tells it under /proc. Starts nothing and ends nothing."""

import os
import pathlib
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
MIB: Final = 1024 * 1024


def peak_mib(pid: int) -> float:
    """The most resident memory that a process has had so far."""
    return _memory(pid, "VmHWM")


def resident_mib(pid: int) -> float:
    return _memory(pid, "VmRSS")


def cpu_seconds(pid: int) -> float:
    """Of all its threads, since it began."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_seconds() -> tuple[float, float]:
    """Busy and all CPU time of the whole machine so far."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS, sum(fields) / TICKS


def _memory(pid: int, name: str) -> float:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / MIB
