"""Other benchmarks' and systems' data as queries: one module a format, read from the user's own copy."""
