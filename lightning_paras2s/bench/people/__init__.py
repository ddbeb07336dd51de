"""Listeners: rating pages and agreement."""
