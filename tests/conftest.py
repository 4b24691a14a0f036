"""Settings that hold for every test: one thread per worker, no display, the same examples in every run."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist starts one worker per core
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings

settings.register_profile("macloom", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("macloom")
