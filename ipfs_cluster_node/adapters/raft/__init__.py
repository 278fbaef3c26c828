"""Consensus: PySyncObj within our guards, journal and transport, driven by the replica."""
