"""The compiled loops: one step per row of demand instead of one per address.

What makes that exact:

- CALC mode's read buffer throws away its whole live half when that is full (`epochs`): an address
  misses unless it came in the same epoch, and repeats of a stream that is longer than an epoch miss always.
- The lanes of one row of demand ask for values that are neighbours in prefetch order (`ranks`), so
  that a row hits in USER mode if an interval lies in the window of the buffer (`reads`).
- Only the number of results matters to the output buffer, and between drains only their sum (`writes`).
"""
