"""Queries: mining, synthesis, filters, manifests, imports."""
