"""Access to the outside: each package adapts one thing, and imports no other adapter."""
