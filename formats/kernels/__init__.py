"""Compiled loops; nothing here is imported before it is used."""
