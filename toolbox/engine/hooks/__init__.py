"""One update: parameter groups, gradients, chunks, and which weights are judged."""
