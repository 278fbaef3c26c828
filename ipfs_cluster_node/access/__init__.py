"""Callers, the rules and permissions that apply to them, and their shares of the node."""
