"""Assignments cut from the solved files, and their grading."""
