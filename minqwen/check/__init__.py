"""Proof that forward and backward agree."""
