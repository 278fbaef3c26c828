"""TLS, servers, channels: what both clients and nodes need of gRPC. Light to import."""
