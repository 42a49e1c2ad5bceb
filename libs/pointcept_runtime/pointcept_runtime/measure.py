"""How long a student takes on this machine, and whether its memory stays what it is.

pointcept-runtime student/ --scan scans/ --repeat 100 --parallel 2
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pointcept_runtime.student import Student

WARM = 3


def memory() -> float:
    """Memory of this process now [MB]; the most so far where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(student: Student, scans: Sequence[np.ndarray], repeat: int, parallel: int = 1) -> list[str]:
    """Label scans again and again.

    Args:
        student: the network.
        scans: points (N, 4) each; they take turns.
        repeat: scans in all, after a few to warm up.
        parallel: threads that share them.

    Returns:
        Lines that say how long a scan takes, from points to labels, and how the memory went.
    """
    for number in range(max(WARM, len(scans))):
        student.label(scans[number % len(scans)])
    seconds: list[float] = []
    sizes: list[float] = [memory()]

    def work(first: int) -> None:
        for number in range(first, repeat, parallel):
            start = time.perf_counter()
            student.label(scans[number % len(scans)])
            seconds.append(time.perf_counter() - start)
            sizes.append(memory())

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = time.perf_counter() - start
    low, middle, high = np.quantile(seconds, (0.1, 0.5, 0.9))
    quarter = max(1, len(sizes) // 4)
    return [
        f"{repeat} scans of {min(map(len, scans))} to {max(map(len, scans))} points, {parallel} at a time: "
        f"median {middle:.3f} s (10 % {low:.3f}, 90 % {high:.3f}), {repeat / total:.2f} scans/s",
        f"memory: {sizes[0]:.0f} MB when warm, at most {max(sizes[:quarter]):.0f} MB in the first quarter and "
        f"{max(sizes[-quarter:]):.0f} MB in the last",
    ]
