"""Qwen 2.3.2 and Qwen2: reading longer than trained. Each technique in a file of its own."""
