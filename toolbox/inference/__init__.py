"""A model or data without a run: evaluate a checkpoint, compute outputs of images, extract features."""
