"""Quantized execution of a user's own model: any causal language model, encoder or vision transformer of
transformers, from a local directory, layer by layer."""
