"""Keys, certificates and join tokens."""
