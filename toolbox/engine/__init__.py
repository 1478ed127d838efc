"""The training engine: a loop on plain torch. Start at loop.py."""
