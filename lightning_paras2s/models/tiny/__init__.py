"""The embedded policy family."""
