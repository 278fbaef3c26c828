"""What earlier releases wrote, and that this one still reads it as it was meant."""
