"""Converts protos and Arrow to core values and back; proto types stop here."""
