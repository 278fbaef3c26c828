"""Blocks on disk, and files made of them."""
