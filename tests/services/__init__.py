"""The way in, without a socket."""
