"""What a run leaves on disk, and what of it goes into a model again."""
