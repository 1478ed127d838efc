"""The benchmarks behind tools/benchmark.py, one promise a file."""
