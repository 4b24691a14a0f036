"""Decoders and encoders of the number formats."""
