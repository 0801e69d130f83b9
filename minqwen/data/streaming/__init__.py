"""Passes over files of any size: deduplication and filters, in one process or many."""
