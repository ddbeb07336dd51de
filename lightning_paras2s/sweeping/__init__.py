"""Grids of runs: trained, evaluated, and kept as rows."""
