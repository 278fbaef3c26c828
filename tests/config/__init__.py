"""Settings, profiles, homes."""
