"""One file per family of accumulators; each registers the names it reads (`macloom.formats.accumulator`)."""
