"""Tensor formats whose elements share scales, codebooks of vectors, and what prepares tensors for them."""
