"""Pairwise comparison."""
