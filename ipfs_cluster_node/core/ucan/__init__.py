"""UCAN 1.0: authorization decisions over decoded and verified tokens."""
