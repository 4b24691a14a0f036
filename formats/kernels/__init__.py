"""Compiled loops; nothing here is imported before it is used.

Without numba, or with MACLOOM_NUMBA=0, modules of `macloom.formats.fallback` take the names of those here.
"""

from pathlib import Path

from macloom._numba import available

if not available():
    __path__ = [str(Path(__file__).resolve().parent.parent / "fallback"), *__path__]
