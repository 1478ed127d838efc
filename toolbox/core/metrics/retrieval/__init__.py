"""Judging embeddings by what they find: recall, its intervals and findings, and what is done to embeddings before."""
