"""What a number is: element formats, tensor formats, their codes, and exact arithmetic on them.

An element format gives every code of a value its meaning; a tensor format says how a whole tensor is
stored. `get_format` finds a tensor format by name. Records are plain frozen dataclasses, so that a
format of your own needs no registration.
"""

import macloom.formats.catalog
import macloom.formats.outliers.ovp_options  # registers outlier-victim pairs
import macloom.formats.parametric  # noqa: F401 - registers names whose options are widths
from macloom.formats.accumulator import (
    Accumulator,
    BlockAccumulator,
    ExactAccumulator,
    FloatAccumulator,
    IntegerAccumulator,
    IntegerOverflow,
    SmallFloatAccumulator,
    SpillAccumulator,
    default_accumulator,
    get_accumulator,
)
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.elements.abfloat import AbFloat
from macloom.formats.elements.adaptivfloat import AdaptivFloat, AdaptivScaled
from macloom.formats.elements.codebook import BlockwiseCodebook, Codebook, fit_codebook
from macloom.formats.elements.decoded import DecodedFormat
from macloom.formats.elements.flint import Flint
from macloom.formats.elements.hifloat8 import HiFloat8
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.logarithmic import LogFormat, UnitLog
from macloom.formats.elements.minifloat import FloatFormat, Specials
from macloom.formats.elements.posit import Posit
from macloom.formats.elements.power import AdditivePowerOfTwo, PowerOfTwo
from macloom.formats.elements.tan import TanFormat
from macloom.formats.elements.ternary import Binary, Ternary
from macloom.formats.gemm import GemmReport, gemm
from macloom.formats.gemm_errors import GemmErrors, gemm_errors
from macloom.formats.grammar import format_entry, get_format, list_formats
from macloom.formats.outliers.biscaled import BiScaled
from macloom.formats.outliers.dense_sparse import DenseSparse
from macloom.formats.outliers.gobo import Gobo
from macloom.formats.outliers.kvquant import KVQuant
from macloom.formats.outliers.kvquant_catalog import rotate
from macloom.formats.outliers.llm_int8 import LlmInt8
from macloom.formats.outliers.olaccel import OutlierMode
from macloom.formats.outliers.ovp import Assign, Ovp
from macloom.formats.outliers.ovp_adaptive import AdaptiveOvp
from macloom.formats.outliers.ovp_upstream import OvpUpstream
from macloom.formats.outliers.pair_permutation import pair_permutation, shared_pairs
from macloom.formats.outliers.sparse import Layout, SparseStore
from macloom.formats.outliers.squeezellm import SqueezeLLM
from macloom.formats.policy import NanPolicy, Overflow, Policy, Rounding, ZeroPolicy
from macloom.formats.reference import encode_reference
from macloom.formats.requantize import Activation, Requantize, Scheme, requantized_gemm
from macloom.formats.scale_storage import DoubleQuantizedScale, IntegerScale, PowerOfTwoScale
from macloom.formats.scales import Grain, Granularity
from macloom.formats.tensor import Encoded, Operand, SparseMatrix, TensorFormat
from macloom.formats.tensors.affine import Affine
from macloom.formats.tensors.bitstack import BitStack
from macloom.formats.tensors.block import Block, ScaleRule
from macloom.formats.tensors.dfp import DynamicFixedPoint
from macloom.formats.tensors.dgq import DualGrained
from macloom.formats.tensors.double_rounding import DoubleRounding
from macloom.formats.tensors.kmeans import LearnedTable
from macloom.formats.tensors.llm_fp4 import SearchedFloat
from macloom.formats.tensors.preshift import PreShifted
from macloom.formats.tensors.reparam import KSort, Merge, Rope, k_sort, merge_channels, merge_scales
from macloom.formats.tensors.scaled import Scaled
from macloom.formats.tensors.statistic import Statistic, StatisticScaled
from macloom.formats.tensors.tf32 import Tf32
from macloom.formats.tensors.twinlog import TwinLog
from macloom.formats.tensors.vector_codebook import VectorCodebook
from macloom.formats.tensors.vptq import Vptq
from macloom.formats.threads import set_threads

__all__ = [
    "AbFloat",
    "Accumulator",
    "Activation",
    "AdaptivFloat",
    "AdaptivScaled",
    "AdaptiveOvp",
    "AdditivePowerOfTwo",
    "Affine",
    "Assign",
    "BiScaled",
    "Binary",
    "BitStack",
    "Block",
    "BlockAccumulator",
    "BlockwiseCodebook",
    "Codebook",
    "DecodedFormat",
    "DenseSparse",
    "DoubleQuantizedScale",
    "DoubleRounding",
    "DualGrained",
    "DynamicFixedPoint",
    "ElementFormat",
    "Encoded",
    "ExactAccumulator",
    "Flint",
    "FloatAccumulator",
    "FloatFormat",
    "GemmErrors",
    "GemmReport",
    "Gobo",
    "Grain",
    "Granularity",
    "HiFloat8",
    "IntFormat",
    "IntegerAccumulator",
    "IntegerOverflow",
    "IntegerScale",
    "KSort",
    "KVQuant",
    "Layout",
    "LearnedTable",
    "LlmInt8",
    "LogFormat",
    "Merge",
    "NanPolicy",
    "Operand",
    "OperandClass",
    "OutlierMode",
    "Overflow",
    "Ovp",
    "OvpUpstream",
    "Policy",
    "Posit",
    "PowerOfTwo",
    "PowerOfTwoScale",
    "PreShifted",
    "Requantize",
    "Rope",
    "Rounding",
    "ScaleRule",
    "Scaled",
    "Scheme",
    "SearchedFloat",
    "SmallFloatAccumulator",
    "SparseMatrix",
    "SparseStore",
    "Specials",
    "SpillAccumulator",
    "SqueezeLLM",
    "Statistic",
    "StatisticScaled",
    "TanFormat",
    "TensorFormat",
    "Ternary",
    "Tf32",
    "TwinLog",
    "UnitLog",
    "VectorCodebook",
    "Vptq",
    "ZeroPolicy",
    "default_accumulator",
    "encode_reference",
    "fit_codebook",
    "format_entry",
    "gemm",
    "gemm_errors",
    "get_accumulator",
    "get_format",
    "k_sort",
    "list_formats",
    "merge_channels",
    "merge_scales",
    "pair_permutation",
    "requantized_gemm",
    "rotate",
    "set_threads",
    "shared_pairs",
]
