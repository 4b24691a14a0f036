"""The same arithmetic in gates. This room is still empty."""
