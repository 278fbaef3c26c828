"""PySyncObj with its holes closed: the only package that knows the library.

`H1` to `H26` are the hazards of docs/consensus.md. Everything here runs in the loop's thread.
"""
