"""Processing elements: multiply and accumulate."""
