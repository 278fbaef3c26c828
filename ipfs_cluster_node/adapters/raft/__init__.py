"""Consensus: PySyncObj within our guards, journal and transport, driven by the replica.

Comments name the hazard that a line guards against by its number, as in "hazard H7": the table in
docs/consensus.md says what each is, and names its test.
"""
