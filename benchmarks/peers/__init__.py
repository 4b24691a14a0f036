"""What other libraries do, to be timed beside macloom; skipped by name where they are not installed."""
