"""Find in recorded operations what is one operation of ours: norms, rope, activations, attention's softmax.

Each pass renames the node that has the result and marks the others as absorbed; an absorbed node stands for its first
operand. Nothing is decided by the name of a module or class.
"""

from __future__ import annotations

import math
from itertools import groupby

from macloom.workloads.trace.record import ACTIVATION, CACHE, TABLE, WEIGHT, Node, Operand

ABSORBED = "macloom.absorbed"
RMS_NORM = "macloom.rms_norm"
ROPE = "macloom.rope"
GELU = "macloom.gelu"
GELU_GATE = "macloom.gelu_gate"

_ARITHMETIC = frozenset(("add", "sub", "rsub", "mul", "div", "pow", "square", "neg"))
_CURVES = {"tanh": GELU, "erf": GELU, "sigmoid": "silu"}
_BEFORE_SOFTMAX = frozenset(("add", "sub", "mul", "div", "where", "masked_fill", "tanh", "clamp", "maximum"))


def all_of(nodes: list[Node]) -> None:
    """Run every pass, in place."""
    readers = _readers(nodes)
    _rms_norms(nodes, readers)
    _ropes(nodes)
    _curves(nodes)
    _scores(nodes)
    _numbers(nodes)
    _gates(nodes, _readers(nodes))


def _readers(nodes: list[Node]) -> list[list[Node]]:
    found: list[list[Node]] = [[] for _ in nodes]
    for node in nodes:
        for maker in {m for o in node.operands for m in o.value.makers}:
            found[maker].append(node)
    return found


def _live(node: Node) -> list[Operand]:
    return [o for o in node.operands if o.value.kind in (ACTIVATION, CACHE)]


def _only(node: Node, nodes: list[Node]) -> Node | None:
    """Return the one node whose result is the one activation that a node reads."""
    live = _live(node)
    makers = {m for o in live for m in o.value.makers}
    return nodes[makers.pop()] if len(makers) == 1 else None


def absorb(node: Node, into: Operand | None = None) -> None:
    """Make a node stand for one of its operands, or for nothing."""
    node.op, node.operands = ABSORBED, [] if into is None else [into]


def _rms_norms(nodes: list[Node], readers: list[list[Node]]) -> None:
    """x * rsqrt(mean(x * x) + eps), and the gain that follows."""
    for node in nodes:
        if node.op != "rsqrt" and not (node.op == "pow" and node.arguments[1:2] == (-0.5,)):
            continue
        chain, here = [node], _only(node, nodes)
        while here is not None and here.op in ("add", "clamp", "clamp_min"):
            chain.append(here)
            here = _only(here, nodes)
        if here is None or here.op != "mean":
            continue
        chain.append(here)
        square = _only(here, nodes)
        if square is None or square.op not in ("pow", "square", "mul") or not _live(square):
            continue
        chain.append(square)
        source = _live(square)[0]
        normed = [n for n in readers[node.index] if n.op in ("mul", "div")]
        if not normed:
            continue
        for part in chain:
            absorb(part)
        for result in normed:
            result.op, result.operands = RMS_NORM, [source]
            for gain in readers[result.index]:
                if gain.op == "mul" and any(o.value.kind == WEIGHT for o in gain.operands):
                    absorb(gain, _live(gain)[0])


def _ropes(nodes: list[Node]) -> None:
    """x * cos + rotated(x) * sin, where cos and sin are tables; or a product with complex numbers from a table."""
    turned = {n.index for n in nodes if n.op == "mul" and any(o.value.kind == TABLE for o in n.operands) and _live(n)}
    summed = set()
    for node in nodes:
        makers = [m for o in node.operands for m in o.value.makers]
        if node.op in ("add", "sub") and len(makers) > 1 and set(makers) <= turned:
            summed |= set(makers)
            source = _live(nodes[makers[0]])[0]
            node.op, node.operands = ROPE, [source]
    for index in turned:
        node = nodes[index]
        if index in summed:
            absorb(node, _live(node)[0])
        else:
            node.op, node.operands = ROPE, [_live(node)[0]]


def _curves(nodes: list[Node]) -> None:
    """Activations that a module computes from arithmetic, such as the tanh form of gelu."""
    for _, run in groupby(nodes, key=lambda n: n.module):
        part = [n for n in run if n.op != ABSORBED]
        curve = next((_CURVES[n.op] for n in part if n.op in _CURVES), None)
        if curve is None or len(part) < 3 or any(n.op not in _ARITHMETIC and n.op not in _CURVES for n in part):
            continue
        inside = {n.index for n in part}
        outside = [o for n in part for o in _live(n) if not set(o.value.makers) <= inside]
        if len({o.value.makers for o in outside}) != 1 or outside[0].shape != part[-1].shape:
            continue
        for node in part[:-1]:
            absorb(node, outside[0])
        part[-1].op, part[-1].operands = curve, [outside[0]]


def _scores(nodes: list[Node]) -> None:
    """Products before a softmax are scores; what scales, masks or biases them between is part of it."""
    for node in nodes:
        if node.op not in ("_softmax", "_safe_softmax"):
            continue
        between, here = [], node
        while True:
            makers = [m for o in _live(here) for m in o.value.makers]
            before = nodes[makers[0]] if makers else None
            if before is None or before.op not in _BEFORE_SOFTMAX:
                break
            between.append(before)
            here = before
        if before is not None and before.op in ("bmm", "baddbmm") and len(_live(before)) >= 2:
            before.options["scores"] = True
            for part in between:
                absorb(part, _live(part)[0])


def _numbers(nodes: list[Node]) -> None:
    """Scaling by one number is part of the scale of what made the tensor; a bias starts the sums of its product."""
    for node in nodes:
        live = _live(node)
        if node.op not in ("mul", "div", "add", "sub", "rsub") or len(live) != 1:
            continue
        others = [o for o in node.operands if o is not live[0]]
        if node.op != "rsub" and all(math.prod(o.shape) == 1 for o in others):
            absorb(node, live[0])
            continue
        maker = _only(node, nodes)
        products = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_grouped_mm")
        bias = all(o.value.kind == WEIGHT and 2 * math.prod(o.shape) <= math.prod(node.shape) for o in others)
        if node.op == "add" and bias and maker is not None and maker.op in products:
            absorb(node, live[0])


def _gates(nodes: list[Node], readers: list[list[Node]]) -> None:
    """A gelu whose result is multiplied with another tensor before a product reads it."""
    for node in nodes:
        after = readers[node.index]
        if node.op in ("gelu", GELU) and after and all(n.op == "mul" and len(_live(n)) == 2 for n in after):
            node.op = GELU_GATE
