"""Section 3.4 of the Qwen report: a model that uses tools, runs code, and makes its own lessons."""
