"""Decisions: pure functions of state, input and time. Imports only values and itself."""
