"""A system behind an OpenAI-compatible server."""
