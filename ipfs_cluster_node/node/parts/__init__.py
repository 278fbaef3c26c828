"""The parts of a node: a role is a set of parts that are built, run and closed together."""
