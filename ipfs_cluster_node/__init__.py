"""A peer-to-peer cluster node over mutual-TLS gRPC."""
