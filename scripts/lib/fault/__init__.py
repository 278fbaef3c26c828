"""Faults caused on real processes, and the history checked afterwards."""
