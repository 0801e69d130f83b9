"""Qwen 3 and Qwen2 post-training: from a base model to one that people want."""
