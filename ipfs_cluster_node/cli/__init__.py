"""The command line: a skin over the client. Only `init`, `join`, `serve` and `dev` touch a node."""
