"""Metrics, by what they judge."""
