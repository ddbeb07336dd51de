"""Judges and analysers judged themselves."""
