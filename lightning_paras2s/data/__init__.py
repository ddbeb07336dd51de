"""Manifests, tokens and batches."""
