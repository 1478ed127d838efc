"""Frozen towers are computed once: which are stored, how, and how a run finds them again."""
