"""The handlers of every worker. Heavy modules are imported when a task needs them."""
