"""Tensor formats that treat outliers apart: outlier-victim pairs, and dense tensors with sparse outliers."""
