"""A peer-to-peer cluster node over mutual-TLS gRPC."""

__version__ = "0.1.0"
