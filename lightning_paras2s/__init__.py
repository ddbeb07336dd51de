"""lightning_paras2s: benchmark and align speech-to-speech models that hear how something was said (ParaS2S, arXiv
2511.08723)."""

__version__ = "0.1.0"
