"""Data sets by name, each read from its published files or drawn."""
