"""Judging embeddings: retrieval, its ranking and what is done to embeddings before."""
