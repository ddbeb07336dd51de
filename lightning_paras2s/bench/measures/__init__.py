"""Measures of related benchmarks, each a pure function: what their tables hold can be computed from answers here.

VoiceBench's overall is `bench.statistics.voicebench_overall`.
"""
