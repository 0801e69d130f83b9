"""Section 2.1 of the Qwen report: the text that a model is trained on."""
