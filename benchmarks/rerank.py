"""The promise of re-ranking: exact, without an N x N matrix, in less than 4 GB of the whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROMISE_BYTES = 4 * 10**9
K1, K2, WEIGHT = 20, 6, 0.3


def run(*, n: int = 20000, dim: int = 256) -> dict[str, Any]:
    """Evaluate embeddings by cosine and by k-reciprocal distances, in a process of its own.

    - `n`: items, each a query against all others; `dim`: their width.

    Returns the seconds of both rankings, "ratio", and "peak_bytes" of the whole process, Python, torch and the
    embeddings included (None where the system does not tell).
    """
    program = f"from benchmarks import rerank; rerank.measure({n}, {dim})"
    checkout = Path(__file__).parents[1]
    process = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, cwd=checkout
    )
    measurements = json.loads(process.stdout.splitlines()[-1])
    return {"name": "rerank", **measurements, "promise_bytes": PROMISE_BYTES, "n": n, "dim": dim}


def measure(n: int, dim: int) -> None:
    """Print the numbers of this process as JSON."""
    import torch

    from benchmarks.recall import make_items
    from benchmarks.timing import measure_seconds
    from toolbox.base import Batch
    from toolbox.registry import build

    embeddings, labels = make_items(n, dim)
    batch = Batch(labels=labels, ids=list(range(n)))

    def measure_metric(**options: Any) -> float:
        metric = build({"type": "retrieval.Recall", "ks": [1, 10], **options}, "metric")
        metric.update({"embeddings": embeddings}, batch)
        return measure_seconds(metric.compute)

    with torch.inference_mode():
        plain = measure_metric()
        both = measure_metric(rerank=[K1, K2, WEIGHT])
    measurements = {"seconds_plain": plain, "seconds": both - plain, "ratio": (both - plain) / plain}
    print(json.dumps(measurements | {"peak_bytes": _read_peak_bytes()}))


def _read_peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
