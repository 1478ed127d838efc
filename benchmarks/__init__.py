"""The benchmarks behind docs/benchmarks.md, one promise a file: `python tools/benchmark.py NAME` in a checkout."""
