"""UCAN tokens of ours and of other libraries, both ways."""
