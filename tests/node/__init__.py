"""How a node is built and run."""
