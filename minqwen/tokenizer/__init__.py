"""Section 2.2 of the Qwen report: byte-pair encoding."""
