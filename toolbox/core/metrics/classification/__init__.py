"""Judging by classes: what a classifier answers, and what the training set tells of others, by neighbours or a fit."""
