"""Metrics, by what they judge; what both rooms need lies here: the items seen, exact ranking by cosine, names."""
