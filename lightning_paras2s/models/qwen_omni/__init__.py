"""The Qwen2.5-Omni family."""
