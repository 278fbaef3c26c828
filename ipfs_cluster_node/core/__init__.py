"""What decides: pure functions of state, input and now. Imports values and itself."""
