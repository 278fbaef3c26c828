"""Manual recovery without a running cluster: continue with one master, or restore a backup."""
