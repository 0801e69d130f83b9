"""Section 2.3 of the Qwen report, and the Qwen2 dense model: layers put together."""
