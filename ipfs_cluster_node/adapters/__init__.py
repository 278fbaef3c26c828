"""What touches the outside: each package adapts one thing, and imports no other adapter."""
