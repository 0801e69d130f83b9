"""Section 2.3.1 of the Qwen report: the pieces of a decoder block, each forward and backward."""
