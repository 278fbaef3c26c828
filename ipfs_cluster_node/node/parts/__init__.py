"""What a node is made of: a role is a set of parts, which are built, run and closed together."""
