"""Helpers that authors of plugins may use, which more than one job needs; each file is one of them."""
