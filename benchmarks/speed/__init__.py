"""Time and memory, measured beside what one would use otherwise."""
