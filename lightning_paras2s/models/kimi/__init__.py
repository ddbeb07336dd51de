"""The Kimi-Audio family."""
