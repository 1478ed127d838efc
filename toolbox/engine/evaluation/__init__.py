"""A model is shown data and judged, or gives embeddings: evaluation, encoding, mining."""
