"""Certificates of members: issued, renewed, revoked, and the authority behind them."""
