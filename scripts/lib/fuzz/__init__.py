"""Fuzzing and mutation testing, by hand: `docs/security-testing.md` has what they found."""
