"""Section 2.4 of the Qwen report: pretraining."""
