"""TLS, servers and channels: the gRPC setup of clients and nodes. Light to import."""
