"""Text and style to speech; codes to speech."""
