"""Linear probes of a frozen backbone: the model, its metric, what a recipe must not say, and their comparison."""
