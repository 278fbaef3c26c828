"""The gRPC services: decode, call, encode. Policy is elsewhere."""
