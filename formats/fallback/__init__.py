"""What stands in for the compiled loops of `macloom.formats.kernels` where there is no numba.

Each module has the name of a module there and functions of the same names, arguments and results, bit for
bit, made of numpy's loops over tiles that fit the cache. `kernels/__init__.py` says when they are used.
"""
