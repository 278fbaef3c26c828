"""Settings, files and profiles of one node or client."""
