"""Weights that stay in their files: what is read of them, and that nothing changes for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.hf import checkpoint, lean, spare, stored
from macloom.workloads.hf.checkpoint import StoredTensor, open_checkpoint
from macloom.workloads.hf.evaluator import ModelEvaluator
from macloom.workloads.hf.lean import FloatProducts, LeanArithmetic, LeanRecording
from macloom.workloads.hf.products import ProductLinear
from macloom.workloads.hf.stored import StoredParameter
from macloom.workloads.hf.weights import WeightMap
from macloom.workloads.lm.data import Text
from macloom.workloads.quantized import GemmArithmetic, QuantizedArithmetic, RecordingArithmetic
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import plan_operands

Directory = Callable[[str], Path]
Quick = Callable[..., Recipe]
SHAPE = (23, 64)
FORMATS = (
    "int4", "int4:token", "int4:group=32", "mxfp4", "nvfp4", "ovp4", "affine4", "nf4", "posit8_1", "llm_int8", "fp16",
    "fp32",
)  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., StoredTensor]:
    """Return a function that writes tensors beside a configuration and says where the one named `w` lies."""

    def write(**tensors: Tensor) -> StoredTensor:
        (tmp_path / "config.json").write_text("{}")
        save_file(tensors, tmp_path / "model.safetensors")
        return open_checkpoint(tmp_path).tensors["w"]

    return write


def normal(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read, multiply and encode a few rows of 64 elements at a time."""
    monkeypatch.setattr(checkpoint, "CHUNK_ELEMENTS", 3 * 64)
    monkeypatch.setattr(stored, "TILE_ELEMENTS", 5 * 64)
    monkeypatch.setattr(stored, "WHOLE_ELEMENTS", 0)
    monkeypatch.setattr(lean, "TILE_ELEMENTS", 7 * 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_those_that_safetensors_reads(
    dtype: torch.dtype, made: Callable[..., StoredTensor], small_tiles: None
) -> None:
    w = made(before=torch.ones(5, dtype=torch.float64), w=normal(dtype=dtype), z=torch.zeros(3, 3))
    expected = load_file(w.file)["w"]
    for part in (slice(None), slice(4, 17), slice(22, 99), slice(9, 9)):
        assert torch.equal(w.read(part), expected[part])
        assert torch.equal(w.read(part, torch.float32), expected[part].float())
    numbers = torch.tensor([[3, 22, 3], [0, 7, 22]])
    assert torch.equal(w.gather(numbers), expected.float()[numbers])


def test_vectors_scalars_and_empty_tensors_are_read(made: Callable[..., StoredTensor]) -> None:
    for tensor in (normal((7,)), torch.tensor(2.5), torch.zeros(0, 4), normal((3, 4, 5))):
        assert torch.equal(made(w=tensor).read(), tensor)


def test_only_what_is_asked_for_is_read_and_looked_at(made: Callable[..., StoredTensor]) -> None:
    values = normal()
    values[20, 5] = torch.inf
    w = made(w=values)
    assert torch.equal(w.read(slice(0, 20)), values[:20])
    assert torch.equal(w.gather(torch.tensor([21, 0])), values[[21, 0]])
    message = f"{w.file}: tensor 'w' holds NaN or infinite values; copy the file again"
    for read in (lambda: w.read(slice(15, 22)), w.read, lambda: w.gather(torch.tensor([20]))):
        with pytest.raises(MacloomError) as caught:
            read()
        assert str(caught.value) == message
    with pytest.raises(MacloomError, match=r"tensor 'w': rows must be in \[0, 23\), not 23"):
        w.gather(torch.tensor([1, 23]))


def test_a_file_that_is_cut_after_it_was_opened_is_found_out(made: Callable[..., StoredTensor]) -> None:
    w = made(w=normal())
    w.file.write_bytes(w.file.read_bytes()[: -4 * 64])
    assert torch.equal(w.read(slice(0, 22)), normal()[:22])
    for read in (w.read, lambda: w.read(slice(22, 23)), lambda: w.gather(torch.tensor([0, 22]))):
        with pytest.raises(MacloomError) as caught:
            read()
        assert str(caught.value) == (
            f"{w.file}: is not a whole safetensors file (it ends within tensor 'w'); copy it again"
        )


def recorded(arithmetic: RecordingArithmetic, x: Tensor, weight: Tensor, bias: Tensor) -> list[Any]:
    arithmetic.linear("op", x, weight, bias)
    return arithmetic.samples


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [None, 9, 99])
def test_samples_are_those_of_a_weight_in_memory(
    dtype: torch.dtype, rows: int | None, made: Callable[..., StoredTensor], small_tiles: None
) -> None:
    source = made(w=normal(dtype=dtype))
    x, weight, bias = normal((9, 64)), source.read(dtype=torch.float32), normal((23,))
    (whole,) = recorded(RecordingArithmetic(weight_rows=rows, rng=np.random.default_rng(0)), x, weight, bias)
    for values in (StoredParameter.of(source), source.read()):
        (found,) = recorded(LeanRecording(weight_rows=rows, rng=np.random.default_rng(0)), x, values, bias)
        for a, b in ((whole.a, found.a), (whole.b, found.b)):
            assert a.rows.tobytes() == b.rows.tobytes()
            assert a.extremes.tolist() == b.extremes.tolist()
        np.testing.assert_allclose(found.output_extremes, whole.output_extremes, rtol=1e-5)


def test_later_batches_sample_no_weight(made: Callable[..., StoredTensor]) -> None:
    for weight in (normal(), StoredParameter.of(made(w=normal()))):
        (found,) = recorded(
            LeanRecording(weight_rows=0, rng=np.random.default_rng(0)), normal((9, 64)), weight, normal((23,))
        )
        assert found.b.rows.shape == (0, 64)


def test_float_products_of_tiles_are_those_of_the_whole(
    made: Callable[..., StoredTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x, bias = normal(), normal((2, 9, 64)), normal((23,))
    parameter = StoredParameter.of(made(w=weight))
    expected = FloatProducts().linear("op", x, weight, bias)
    assert torch.equal(FloatProducts().linear("op", x, parameter, bias), expected)  # small: in one piece
    monkeypatch.setattr(stored, "WHOLE_ELEMENTS", 0)
    monkeypatch.setattr(stored, "TILE_ELEMENTS", 5 * 64)
    assert torch.allclose(FloatProducts().linear("op", x, parameter, bias), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_a_weight_encoded_from_its_file_gives_the_bits_of_one_in_memory(
    name: str, made: Callable[..., StoredTensor], quick: Quick, small_tiles: None
) -> None:
    source = made(w=normal(dtype=torch.bfloat16))
    x, weight = normal((9, 64)), source.read(dtype=torch.float32)
    recipe = quick(name, output=get_format("fp32"))
    (sample,) = recorded(RecordingArithmetic(rng=np.random.default_rng(0)), x, weight, normal((23,)))
    plan = plan_operands(recipe, [sample])
    whole = QuantizedArithmetic(recipe, plan)
    expected = whole.linear("op", x, weight)
    for values in (StoredParameter.of(source), source.read()):
        tiled = LeanArithmetic(recipe, plan)
        assert torch.equal(tiled.linear("op", x, values), expected)
        assert torch.equal(tiled.linear("op", x, torch.empty(SHAPE, device="meta")), expected)  # it is kept
        assert tiled.reports["op"].overflows == whole.reports["op"].overflows
    with pytest.raises(MacloomError, match="recipe .*: op: weight: must be in the plan"):
        LeanArithmetic(recipe, {k: v for k, v in plan.items() if k[1] != "weight"}).linear(
            "op", x, StoredParameter.of(source)
        )


def evaluator(path: Path, text: Text) -> ModelEvaluator:
    return ModelEvaluator(path, text, context=12, windows=3, batch=2, calibration=text, calibration_windows=2)


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2", "bert"])
def test_a_run_gives_the_bits_of_one_with_weights_in_memory(
    family: str, directory: Directory, sentences: Text, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent = evaluator(directory(family), sentences).run(quick("int4"))
    fill = WeightMap.fill

    def filled(self: WeightMap, *arguments: Any, lend: bool = False, **options: Any) -> None:
        fill(self, *arguments, **options)

    monkeypatch.setattr(WeightMap, "fill", filled)
    whole = evaluator(directory(family), sentences).run(quick("int4"))
    np.testing.assert_equal(lent.to_dict(), whole.to_dict())


def test_tiles_change_the_logits_by_rounding_alone(
    directory: Directory, sentences: Text, unquantized: Recipe, build: Callable[..., Any], small_tiles: None
) -> None:
    for family in ("llama", "mixtral"):
        model, seen = build(family), []
        e = evaluator(directory(family), sentences)
        e.run(unquantized, each=lambda number, reference, quantized, seen=seen: seen.append((reference, quantized)))
        with torch.inference_mode():
            expected = model(**e.text.batch(0, 3)).logits
        for window, (reference, quantized) in zip(expected, seen, strict=True):
            assert torch.allclose(reference, window, rtol=1e-5, atol=1e-5)
            assert torch.allclose(quantized, window, rtol=1e-5, atol=1e-5)


def test_linear_weights_and_the_embedding_are_never_loaded(
    directory: Directory, sentences: Text, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = evaluator(directory("llama"), sentences)
    loaded: list[int] = []
    looked_up: list[int] = []
    product, gather = GemmArithmetic.run, StoredTensor.gather

    def run(self: GemmArithmetic, *arguments: Any) -> Tensor:
        loaded.append(sum(p.numel() for p in e.skeleton.model.parameters() if not p.is_meta))
        return product(self, *arguments)

    def gathered(self: StoredTensor, rows: Tensor) -> Tensor:
        if "embed" in self.name:
            looked_up.append(len(rows.unique()))
        return gather(self, rows)

    monkeypatch.setattr(GemmArithmetic, "run", run)
    monkeypatch.setattr(StoredTensor, "gather", gathered)
    e.run(quick("int4"))
    assert 0 < max(loaded) <= 3 * 64  # norms
    assert 0 < max(looked_up) <= 2 * 12


def test_experts_stay_in_the_type_they_are_stored_in(
    build: Callable[..., Any], write: Callable[..., Path], sentences: Text, quick: Quick, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = write(build("mixtral").to(torch.bfloat16), tmp_path / "mixtral")
    e = evaluator(path, sentences)
    seen: set[torch.dtype] = set()
    tiles = stored.tiles

    def watched(weight: Tensor) -> Iterable[tuple[slice, Tensor]]:
        seen.add(weight.dtype)
        return tiles(weight)

    monkeypatch.setattr(stored, "tiles", watched)
    first = e.run(quick("int4"))
    assert torch.bfloat16 in seen
    monkeypatch.setattr(WeightMap, "_of_experts", lambda self, name: False)
    assert evaluator(path, sentences).run(quick("int4")).by_window.table().tolist() == first.by_window.table().tolist()


def test_linear_modules_whose_rows_lie_otherwise_are_loaded(directory: Directory, sentences: Text) -> None:
    e = evaluator(directory("gpt2"), sentences)
    with e.passes.layer(0) as block:
        linear = [m for m in block.modules() if isinstance(m, ProductLinear)]
        assert linear
        assert not any(m.weight.is_meta for m in linear)  # Conv1D holds them transposed
    e = evaluator(directory("llama"), sentences)
    with e.passes.layer(0) as block:
        assert all(isinstance(m.weight, StoredParameter) for m in block.modules() if isinstance(m, ProductLinear))
    with e.passes.layer(0, lend=False) as block:
        assert not any(p.is_meta for p in block.parameters())


def test_memory_is_given_back_where_the_system_can(monkeypatch: pytest.MonkeyPatch) -> None:
    spare.give_back()
    monkeypatch.setattr(spare, "_trim", lambda: None)
    spare.give_back()
