"""Settings of one node: frozen, complete, checked where they are made."""
