"""The promise of re-ranking: exact, without an N x N matrix, in less than 4 GB of the whole process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

PROMISE_BYTES = 4 * 10**9
K1, K2, WEIGHT = 20, 6, 0.3


def run(*, n: int = 20000, dim: int = 256) -> dict[str, Any]:
    """Judge embeddings by cosine and by k-reciprocal distances in a process of its own.

    - `n`: items, each a query against all others; `dim`: their width.

    Returns the seconds of both rankings, "ratio", and "peak_bytes" of the whole process, Python, torch and the
    embeddings included (None where the system does not tell).
    """
    program = f"from toolbox.cli.benchmarks import rerank; rerank.measure({n}, {dim})"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"name": "rerank", **found, "promise_bytes": PROMISE_BYTES, "n": n, "dim": dim}


def measure(n: int, dim: int) -> None:
    """Print the numbers of this process as JSON."""
    import torch

    from toolbox.base import Batch
    from toolbox.cli.benchmarks.recall import items
    from toolbox.registry import build

    embeddings, labels = items(n, dim)
    batch = Batch(labels=labels, ids=list(range(n)))

    def seconds(**options: Any) -> float:
        metric = build({"type": "retrieval.Recall", "ks": [1, 10], **options}, "metric")
        metric.update({"embeddings": embeddings}, batch)
        start = time.perf_counter()
        metric.compute()
        return time.perf_counter() - start

    with torch.inference_mode():
        plain = seconds()
        both = seconds(rerank=[K1, K2, WEIGHT])
    found = {"seconds_plain": plain, "seconds": both - plain, "ratio": (both - plain) / plain}
    print(json.dumps(found | {"peak_bytes": _peak()}))


def _peak() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
