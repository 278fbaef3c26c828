"""Files by CID: stored, copied, and kept where they are."""
