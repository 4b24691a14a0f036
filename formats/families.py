"""Families of formats: the groups in which the catalog lists them and the documentation explains them."""

from __future__ import annotations

from dataclasses import dataclass

from macloom._registry import Registry


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the formats of one page of the documentation have in common.

    Attributes:
        key: the name in listings, which is the page's file name, too.
        title: the page's title.
        text: two sentences: what these formats are, and what that costs or buys.
        related: modules whose docstrings tell what is done to tensors before these formats store them.
    """

    key: str
    title: str
    text: str
    related: tuple[str, ...] = ()


FAMILIES: Registry[Family] = Registry("family", "macloom list formats")


def _family(key: str, title: str, text: str, *related: str) -> Family:
    return FAMILIES.add(key, Family(key=key, title=title, text=text, related=related))


INTEGER = _family(
    "integer",
    "Integers: symmetric, unsigned and affine",
    "An integer code is the value in steps of a scale; affine formats store the integer that stands for zero besides. "
    "The step is the same everywhere: the multiplier takes codes as they are, and one outlier widens every step.",
)
FLOAT = _family(
    "float",
    "Floats: IEEE, bfloat16 and the OCP minifloats",
    "A float code holds a sign, an exponent and a mantissa with a hidden bit, and subnormals next to zero. "
    "The step grows with the magnitude, which keeps the relative error constant over the exponent's range and costs "
    "an exponent adder and a shifter per product.",
)
MX = _family(
    "mx",
    "Microscaling: OCP MX and NVFP4",
    "A block of a row's neighbours shares one scale, a power of two in MX and an E4M3 number in NVFP4, and every "
    "element is a minifloat or an integer. The scale follows the data in short steps, so that an outlier "
    "spoils its own block only, at the price of a scale per block in memory and in the accumulator.",
)
BFP = _family(
    "bfp",
    "Block floating point: BFP, MSFP and dynamic fixed point",
    "A block of elements shares an exponent and keeps integer mantissas without a hidden bit; in dynamic fixed point "
    "the block is the whole tensor. A product of two blocks is an integer dot product and one exponent add.",
    "macloom.formats.tensors.reparam",
)
ANT = _family(
    "ant",
    "flint: the float-integer hybrid of ANT",
    "flint spends its code on integers near zero and on a growing exponent beyond, told apart by the leading one. "
    "It decodes to a short integer and a shift; abfloat, its companion for outliers, is on the page of "
    "outlier-victim pairs.",
)
OVP = _family(
    "ovp",
    "Outlier-victim pairs (OliVe), with abfloat",
    "Two neighbours share the bits of both: where one is an outlier it takes a wide abfloat code and its neighbour, "
    "the victim, becomes zero. Memory stays aligned, as outliers need no index, and a decoder looks at two codes at "
    "a time.",
    "macloom.formats.outliers.pair_permutation",
)
LOGARITHMIC = _family(
    "logarithmic",
    "Powers of two and logarithms: PoT, APoT, LNS, log quantizers, TwinLog",
    "The code is a logarithm, or names a few powers of two whose sum is the value. "
    "Whole logarithms multiply by shifting; fractions of one need a table that decodes them.",
)
POSIT = _family(
    "posit",
    "Posits",
    "A posit has a run-length coded regime in front of its exponent, so that values near one get most of the "
    "fraction bits. Decoding counts leading bits and shifts, and nothing rounds to zero or overflows.",
)
TAPERED = _family(
    "tapered",
    "Tan, HiFloat8 and AdaptivFloat",
    "Levels that lie where a method wants them: after a tangent, with fewer mantissa bits far from one, "
    "or in binades that follow the tensor's largest magnitude. Codes keep a fixed width; what varies is the decoder.",
)
CODEBOOK = _family(
    "codebook",
    "Codebooks: NF4, FP4 of bitsandbytes, AF4, k-means",
    "The value of a code is an entry of a list, fixed by a distribution or fitted to data. "
    "Any levels are possible; hardware pays with a table that decodes each code to a wider operand.",
)
TERNARY = _family(
    "ternary",
    "Ternary and binary",
    "Elements are -1, 0 and 1, or just the sign, times one magnitude. "
    "A product is an addition, a subtraction or nothing.",
)
SPARSE = _family(
    "sparse",
    "Dense and sparse: GOBO, OLAccel, SqueezeLLM, KVQuant, LLM.int8, BiScaled",
    "Most elements take short codes and a few outliers are stored apart, with their positions. "
    "The dense part keeps a small range; the sparse part costs index bits and a second path for products.",
)
SEARCHED = _family(
    "searched",
    "Vectors, stacks and searches: VPTQ, BitStack, Double Rounding, DGQ, LLM-FP4",
    "Formats whose codes stand for more than one element or one precision, or whose scales come from a search. "
    "They buy accuracy or choice at run time with work at encoding, or with a decoder that computes.",
    "macloom.formats.tensors.reparam",
)
