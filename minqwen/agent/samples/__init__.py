"""Samples of tool use: what one is, its rules, its files."""
