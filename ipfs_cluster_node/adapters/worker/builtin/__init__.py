"""Handlers that every worker has. Heavy modules are imported when a task needs them."""
