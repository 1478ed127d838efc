"""Trained models as folders that other libraries load."""
