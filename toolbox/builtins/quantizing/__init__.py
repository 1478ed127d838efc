"""Weights in 4 or 8 bits: what is packed, the layer that computes with it, the libraries behind it."""
