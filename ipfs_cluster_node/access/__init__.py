"""Who calls, and what they may: callers, rules, permissions, and their shares of the node."""
