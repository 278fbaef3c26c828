"""Deterministic simulation of consensus: real engines, a clock, a network and disks of its own."""
