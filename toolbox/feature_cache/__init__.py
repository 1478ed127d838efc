"""Features of frozen towers on disk: what they are of, how they are written, read and verified. Knows no run."""
