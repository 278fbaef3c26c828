"""The audit log of one node."""
