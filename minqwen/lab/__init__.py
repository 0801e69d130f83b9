"""Experiments: train something small, measure it, and hold the numbers against the reports."""
