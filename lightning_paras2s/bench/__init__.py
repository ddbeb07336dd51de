"""ParaS2SBench: queries, systems, judgement, statistics, reports."""
