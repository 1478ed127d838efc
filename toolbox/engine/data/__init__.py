"""From a dataset to batches: workers, and items that cannot be read."""
