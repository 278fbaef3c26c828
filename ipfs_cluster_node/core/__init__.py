"""What decides: pure functions of state, input and now. Imports the standard library's values and itself."""
