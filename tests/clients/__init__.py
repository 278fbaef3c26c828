"""Programs in other languages, made from the protos and the docs alone, against a real cluster."""
