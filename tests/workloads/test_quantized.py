"""Quantized execution: exact products by Python integers, float equality, attention's structure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.lm.model import FLOAT, LlamaConfig, causal_softmax, forward
from macloom.workloads.models import load_workload
from macloom.workloads.ops import Role
from macloom.workloads.quantized import Operand, QuantizedArithmetic, RecordingArithmetic
from macloom.workloads.recipe import Recipe, load_recipe
from macloom.workloads.search import Choice, OperandPlan, Plan, plan_operands

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
OVP4_OUTLIERS = [12, 16, 24, 32, 48, 64, 96]  # (2 + m) * 2**(e + 2) but for code 0, which is zero

Parts = Callable[[np.ndarray, float], tuple[list[list[Fraction]], list[list[Fraction]]]]


def parameters(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.normal(0.0, 0.2, shape, generator=generator) if len(shape) == 2 else torch.ones(shape)
        for name, shape in CONFIG.parameter_shapes().items()
    }


def tokens(batch: int = 3, length: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (batch, length)))


def unquantized() -> Recipe:
    return dataclasses.replace(load_recipe("fp32"), output=get_format("fp32"), overrides=())


def calibrated(recipe: Recipe, p: dict[str, torch.Tensor], t: torch.Tensor) -> Plan:
    recorder = RecordingArithmetic(rng=np.random.default_rng(0))
    forward(p, CONFIG, t, recorder)
    return plan_operands(recipe, recorder.samples)


def one_product(fmt: str, x: np.ndarray, w: np.ndarray, clip: float) -> np.ndarray:
    """Return x times w transposed as the arithmetic computes it, both operands at one clip ratio, fp32 output."""
    recipe = dataclasses.replace(load_recipe(fmt), output=get_format("fp32"))
    plan: Plan = {}
    for name, role, data in (
        ("activation", Role.ACTIVATION, x),
        ("weight", Role.WEIGHT, w),
        ("output", Role.OUTPUT, x),
    ):
        tensor_format = recipe.format_for(role, "op")
        scale = tensor_format.calibrate(data, clip) if tensor_format.static_scale else None
        choice = Choice(clip=clip, error=0.0, absmax_error=0.0)
        plan["op", name] = OperandPlan(
            op="op", operand=name, role=role, format=tensor_format, scale=scale, choice=choice
        )
    return QuantizedArithmetic(recipe, plan).linear("op", torch.from_numpy(x), torch.from_numpy(w)).numpy()


def integer_scale(values: np.ndarray, clip: float, stored: type = np.float32) -> Fraction:
    """absmax * clip / 7 in float32, as it is stored."""
    return Fraction(float(stored(np.abs(values).max() * np.float32(clip) / np.float32(7))))


def nearest_integer(v: float, scale: Fraction) -> int:
    return max(-7, min(7, int(np.rint(np.float32(v) / np.float32(float(scale))))))


def int4_tensor(x: np.ndarray, clip: float) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    scale = integer_scale(x, clip)
    return [[Fraction(nearest_integer(v, scale)) for v in row] for row in x], [[scale] * x.shape[1] for _ in x]


def int4_group16(x: np.ndarray, clip: float) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    scales = [[integer_scale(row[i // 16 * 16 :][:16], clip, np.float16) for i in range(len(row))] for row in x]
    return [
        [Fraction(nearest_integer(v, s)) for v, s in zip(r, t, strict=True)] for r, t in zip(x, scales, strict=True)
    ], scales


def mxfp4(x: np.ndarray, clip: float) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    """OCP MX v1.0, 6.3: shared exponent floor(log2(amax)) - 2, elements E2M1, nearest even, saturating."""

    def scale(block: np.ndarray) -> Fraction:
        return Fraction(2) ** (math.floor(math.log2(np.abs(block).max() * np.float32(clip))) - 2)

    def element(v: Fraction) -> Fraction:
        distances = [(abs(abs(v) - Fraction(e)), i % 2, i) for i, e in enumerate(E2M1)]
        return (1 if v >= 0 else -1) * Fraction(E2M1[min(distances)[2]])

    scales = [[scale(row[i // 32 * 32 :][:32]) for i in range(len(row))] for row in x]
    values = [
        [element(Fraction(float(v)) / s) for v, s in zip(r, t, strict=True)] for r, t in zip(x, scales, strict=True)
    ]
    return values, scales


def ovp4(x: np.ndarray, clip: float) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    """Guo et al., OliVe, ISCA 2023: the larger outlier of a pair takes an outlier value, its partner becomes 0."""
    scale = integer_scale(x, clip)

    def pair(a: float, b: float) -> tuple[int, int]:
        ya, yb = (float(np.float32(v) / np.float32(float(scale))) for v in (a, b))
        if max(abs(ya), abs(yb)) <= 9.5:  # halfway from 7 to 12
            return nearest_integer(a, scale), nearest_integer(b, scale)
        wide = [int(math.copysign(min(OVP4_OUTLIERS, key=lambda o: abs(abs(y) - o)), y)) for y in (ya, yb)]
        return (wide[0], 0) if abs(ya) >= abs(yb) else (0, wide[1])

    values = [[Fraction(u) for i in range(0, len(row), 2) for u in pair(row[i], row[i + 1])] for row in x]
    return values, [[scale] * x.shape[1] for _ in x]


@pytest.mark.parametrize("clip", [1.0, 0.3])
@pytest.mark.parametrize(
    "fmt, parts", [("int4", int4_tensor), ("int4:group=16", int4_group16), ("mxfp4", mxfp4), ("ovp4", ovp4)]
)
def test_linear_equals_exact_fractions(fmt: str, parts: Parts, clip: float) -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(5, 64)).astype(np.float32)
    x[:, 9] *= 12  # outliers for ovp4 to keep
    w = (rng.normal(size=(6, 64)) * 0.05).astype(np.float32)
    result = one_product(fmt, x, w, clip)
    (xv, xs), (wv, ws) = parts(x, clip), parts(w, clip)
    for m in range(5):
        for n in range(6):
            terms = [xv[m][i] * wv[n][i] * xs[m][i] * ws[n][i] for i in range(64)]
            # Exact inside a block; then a float32 rounding per scale product, block result and sum.
            bound = float(sum(map(abs, terms))) * 8 * 2.0**-24
            assert abs(float(result[m, n]) - float(sum(terms))) <= bound
    if fmt == "ovp4" and clip < 1:
        assert max(abs(v) for row in xv for v in row) > 7  # the case does hold outliers


def test_float_recipe_equals_the_float_model() -> None:
    p, t = parameters(), tokens()
    quantized = forward(p, CONFIG, t, QuantizedArithmetic(unquantized(), calibrated(unquantized(), p, t)))
    torch.testing.assert_close(quantized, forward(p, CONFIG, t, FLOAT), rtol=2e-5, atol=2e-5)


def test_recording_equals_the_float_model_and_samples_every_product() -> None:
    p, t = parameters(), tokens()
    recorder = RecordingArithmetic(rng=np.random.default_rng(0), rows=10, windows=2)
    torch.testing.assert_close(forward(p, CONFIG, t, recorder), forward(p, CONFIG, t, FLOAT), rtol=1e-5, atol=1e-5)
    assert len(recorder.samples) == 2 * 9 + 1
    by_op = {s.op: s for s in recorder.samples}
    q, k, o = (by_op[f"model.layers.0.self_attn.{n}_proj"] for n in "qko")
    assert q.a is k.a  # one tensor, one sample
    assert o.a.source != q.a.source
    assert q.a.rows.shape == (10, 32)
    scores = by_op["model.layers.0.self_attn.scores"]
    assert scores.a.rows.shape == (2, 2, 2, 8)
    assert scores.b.rows.shape == (2, 2, 16, 8)
    assert (scores.a.role, scores.b.role) == (Role.ACTIVATION, Role.KV)
    values = by_op["model.layers.0.self_attn.values"]
    assert values.b.rows.shape == (2, 2, 8, 16)  # the reduction axis is the token axis
    assert (values.a.role, values.b.role) == (Role.PROBABILITY, Role.KV)
    assert values.a.extremes[0] == 0
    again = RecordingArithmetic(rng=np.random.default_rng(0), rows=10, windows=2)
    forward(p, CONFIG, t, again)
    for one, other in zip(recorder.samples, again.samples, strict=True):
        assert np.array_equal(one.a.rows, other.a.rows)


def test_product_names_and_roles_are_those_of_the_workload() -> None:
    p, t = parameters(), tokens()
    recorder = RecordingArithmetic(rng=np.random.default_rng(0))
    forward(p, CONFIG, t, recorder)
    for gemm in load_workload("tiny", sequence=16).gemms:
        matching = [s for s in recorder.samples if s.op == gemm.name or s.op.endswith("." + gemm.name)]
        assert matching, gemm.name
        assert {(s.a.role, s.b.role) for s in matching} == {(gemm.a, gemm.b)}


@pytest.mark.parametrize("name", ["int8", "int4:token", "mxfp4", "ovp4"])
def test_masked_probabilities_are_exact_zeros(name: str) -> None:
    p, t = parameters(), tokens(batch=1)
    recipe = load_recipe(name)
    plan = calibrated(recipe, p, t)
    seen: list[np.ndarray] = []

    class Spy(QuantizedArithmetic):
        def product(self, op: str, a: Operand, b: Operand, bias: torch.Tensor | None = None) -> torch.Tensor:
            if a.role is Role.PROBABILITY:
                planned = self.plan[op, a.name]
                encoded = planned.format.encode(a.values.numpy(), scale=planned.scale, clip=planned.choice.clip)
                seen.append(encoded.decode())
            return super().product(op, a, b, bias)

    forward(p, CONFIG, t, Spy(recipe, plan))
    later = np.triu(np.ones((16, 16), bool), 1)
    for x in seen:
        assert not x.reshape(-1, 16, 16)[:, later].any()
        assert x.any()
    assert len(seen) == 2


def test_earlier_logits_do_not_see_later_tokens_where_no_block_mixes_them() -> None:
    p, t = parameters(), tokens(batch=1)
    changed = t.clone()
    changed[:, 10:] += 1
    changed %= 256
    recipe = load_recipe("int8")
    plan = calibrated(recipe, p, t)
    one, other = (forward(p, CONFIG, u, QuantizedArithmetic(recipe, plan)) for u in (t, changed))
    assert torch.equal(one[:, :10], other[:, :10])
    assert not torch.equal(one[:, 10:], other[:, 10:])


def test_outputs_pass_through_the_output_format() -> None:
    p, t = parameters(), tokens()
    for name in ("fp16", "bf16"):
        recipe = dataclasses.replace(load_recipe("int8"), output=get_format(name))
        outputs: dict[str, torch.Tensor] = {}
        forward(p, CONFIG, t, QuantizedArithmetic(recipe, calibrated(recipe, p, t), outputs.__setitem__))
        assert len(outputs) == 19
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[name]
        for out in outputs.values():
            assert torch.equal(out, out.to(dtype).float())


def test_equal_runs_give_equal_bits_and_batches_do_not_matter() -> None:
    p, t = parameters(), tokens(batch=4)
    recipe = load_recipe("ovp4")
    plan = calibrated(recipe, p, t)
    together = forward(p, CONFIG, t, QuantizedArithmetic(recipe, plan))
    again = forward(p, CONFIG, t, QuantizedArithmetic(recipe, plan))
    assert torch.equal(together, again)
    apart = QuantizedArithmetic(recipe, plan)
    torch.testing.assert_close(torch.cat([forward(p, CONFIG, w, apart) for w in t.split(1)]), together)


def test_an_operand_read_three_times_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    p, t = parameters(), tokens()
    recipe = load_recipe("int8")
    arithmetic = QuantizedArithmetic(recipe, calibrated(recipe, p, t))
    kind, encoded = type(recipe.weight), []
    original = kind.encode

    def counted(self: object, x: np.ndarray, **options: object) -> object:
        encoded.append(x.shape)
        return original(self, x, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "encode", counted)
    forward(p, CONFIG, t, arithmetic)
    # Per layer: 7 weights, 4 linear inputs (qkv, o, gate+up, down), q, k, probabilities, v; then the head's two.
    assert len(encoded) == 2 * (7 + 4 + 4) + 2
    encoded.clear()
    forward(p, CONFIG, t, arithmetic)
    assert len(encoded) == 2 * (4 + 4) + 1  # weights stay encoded


def test_causal_softmax_is_softmax_of_what_is_visible() -> None:
    scores = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 5, 5)).astype(np.float32))
    probability = causal_softmax(scores, 0.5)
    for i in range(5):
        torch.testing.assert_close(probability[:, i, : i + 1], F.softmax(scores[:, i, : i + 1] / 2, -1))
        assert not probability[:, i, i + 1 :].any()


def test_messages_name_the_recipe_and_the_operation() -> None:
    p, t = parameters(), tokens()
    recipe = load_recipe("int4")
    with pytest.raises(
        MacloomError, match=r"^recipe 'int4': model.layers.0.self_attn.q_proj: activation: must be in the"
    ):
        forward(p, CONFIG, t, QuantizedArithmetic(recipe, {}))
    plan = calibrated(recipe, p, t)
    p["model.layers.1.mlp.up_proj.weight"] = p["model.layers.1.mlp.up_proj.weight"] * math.nan
    with pytest.raises(MacloomError, match=r"^recipe 'int4': model.layers.1.mlp.up_proj: .*NaN"):
        forward(p, CONFIG, t, QuantizedArithmetic(recipe, plan))


def test_a_bias_is_added_before_the_output_is_rounded() -> None:
    rng = np.random.default_rng(0)
    x, weight = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for shape in ((5, 32), (7, 32)))
    bias = torch.from_numpy(rng.standard_normal(7, np.float32))
    recipe = load_recipe("int4")
    recorder = RecordingArithmetic(rng=rng)
    torch.testing.assert_close(recorder.linear("op", x, weight, bias), torch.nn.functional.linear(x, weight, bias))
    plan = plan_operands(recipe, recorder.samples)
    exact = dataclasses.replace(recipe, output=get_format("fp32"))
    sums = QuantizedArithmetic(exact, plan_operands(exact, recorder.samples)).linear("op", x, weight) + bias
    planned = plan["op", "output"]
    expected = planned.format.quantize(sums.numpy(), scale=planned.scale)
    assert np.array_equal(QuantizedArithmetic(recipe, plan).linear("op", x, weight, bias).numpy(), expected)
    with_rounded_sums = planned.format.quantize((sums - bias).numpy(), scale=planned.scale) + bias.numpy()
    assert not np.array_equal(with_rounded_sums, expected)
