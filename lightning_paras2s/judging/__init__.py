"""Rubric, judges, scorers, rewards."""
