"""Measures of related benchmarks, each a pure function: what their tables hold can be computed from answers here.

`named.py` holds those that `evaluate --measures` takes by name; docs/corpora.md tells what each needs. VoiceBench's
overall is `bench.corpora.voicebench_scores.overall`.
"""
