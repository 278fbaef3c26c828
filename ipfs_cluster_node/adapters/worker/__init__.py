"""Task handlers and the processes they run in."""
