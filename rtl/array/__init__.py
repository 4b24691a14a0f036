"""Systolic arrays with their decoders, encoders and controllers."""
