"""What benchmarks measure with: the time of calls in turn, and how far one raises the memory of the process."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def measure_seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_in_turn(
    plain: Callable[[], object], ours: Callable[[], object], pairs: int
) -> list[tuple[float, float, float]]:
    """Seconds of a plain call, of one of ours and of a plain one again, so many times."""
    return [(measure_seconds(plain), measure_seconds(ours), measure_seconds(plain)) for _ in range(pairs)]


def summarize_ratios(ratios: Sequence[float], repeats: Sequence[float]) -> dict[str, Any]:
    """The median ratio, all of them, and the lowest and highest of plain against plain."""
    return {
        "ratio_median": statistics.median(ratios),
        "ratios": list(ratios),
        "spread": [min(repeats), max(repeats)],
    }


def measure_peak_bytes(function: Callable[[], object]) -> int | None:
    """How far one call raises the resident memory of this process, looked at every 2 ms; None without /proc."""
    before, finished = read_resident_bytes(), threading.Event()
    if before is None:
        return None
    peak = [before]

    def watch() -> None:
        while not finished.wait(0.002):
            peak[0] = max(peak[0], read_resident_bytes() or 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        function()
    finally:
        finished.set()
        watcher.join()
    return peak[0] - before


def read_resident_bytes() -> int | None:
    """Resident memory of this process, None on systems without /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    import resource

    return pages * resource.getpagesize()


def compare_with_products(products: Callable[[], object], whole: Callable[[], object], pairs: int) -> dict[str, Any]:
    """What a computation costs beside the matrix products that it cannot do without.

    - `products`: these alone; `whole`: all of it; `pairs`: how many interleaved measurements of each.

    Returns "ratio_median" over the `ratios` of whole / products, the `spread` (products measured again / products:
    lowest and highest), the seconds of both, and "peak_extra_bytes" (None where the system does not tell).
    """
    peak = measure_peak_bytes(whole)
    products()
    measured = measure_in_turn(products, whole, pairs)
    return {
        **summarize_ratios([both / alone for alone, both, _ in measured], [again / one for one, _, again in measured]),
        "seconds": statistics.median(both for _, both, _ in measured),
        "seconds_products": statistics.median(alone for alone, _, _ in measured),
        "peak_extra_bytes": peak,
    }
