"""The client, without a cluster."""
