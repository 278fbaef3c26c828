"""Wires everything and runs it."""
