"""The conformance kit: what must hold for every element format and every tensor format.

A format of your own gets the whole suite by naming itself:

>>> from macloom.formats import FloatFormat, Scaled
>>> from macloom.testing import check_element_format
>>> check_element_format(FloatFormat(label="e3m1", exponent_bits=3, mantissa_bits=1))

`ELEMENT_CHECKS` and `TENSOR_CHECKS` hold the single checks by name, for a test runner that wants one
line for each. Each raises AssertionError and says which value breaks the property.
"""

from macloom.testing.elements import ELEMENT_CHECKS, check_element_format
from macloom.testing.tensors import TENSOR_CHECKS, check_tensor_format

__all__ = ["ELEMENT_CHECKS", "TENSOR_CHECKS", "check_element_format", "check_tensor_format"]
