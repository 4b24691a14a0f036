"""Training: seeded, resumable, and faithful to the outlier gains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from macloom.errors import MacloomError
from macloom.workloads.lm import train
from macloom.workloads.lm.checkpoint import load_model
from macloom.workloads.lm.data import Text
from macloom.workloads.lm.model import LlamaConfig
from macloom.workloads.lm.train import Schedule, Trainer, Variant, batch_at, initial_parameters

TEXT = Text(name="sample", data=b"the quick brown fox jumps over the lazy dog\n" * 60)
SCHEDULE = Schedule(steps=40, batch=4, context=24, warmup=2)
OUTLIERS = Variant(outlier_channels=(3, 17))


def trainer(config: LlamaConfig, variant: Variant = OUTLIERS) -> Trainer:
    return Trainer(variant, SCHEDULE, config, TEXT, "cpu")


def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path: Path, small: LlamaConfig) -> None:
    whole = trainer(small)
    for _ in range(3):
        whole.advance()
    first = trainer(small)
    first.advance()
    first.save_state(tmp_path / "state.safetensors")
    second = trainer(small)
    second.load_state(tmp_path / "state.safetensors")
    assert (second.step, second.losses) == (1, whole.losses[:1])
    for _ in range(2):
        second.advance()
    assert second.losses == whole.losses
    for name, tensor in whole.parameters.items():
        assert torch.equal(tensor, second.parameters[name]), name
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_the_state_of_another_run_is_refused(tmp_path: Path, small: LlamaConfig) -> None:
    trainer(small).save_state(tmp_path / "state.safetensors")
    other = Trainer(OUTLIERS, Schedule(steps=3, seed=1), small, trainer(small).text, "cpu")
    with pytest.raises(MacloomError, match="is the state of another variant, seed or schedule; move it away"):
        other.load_state(tmp_path / "state.safetensors")


def test_training_learns(small: LlamaConfig) -> None:
    run = trainer(small, Variant())
    losses = [run.advance() for _ in range(40)]
    assert losses[0] == pytest.approx(5.545, abs=0.2)  # ln 256: a fresh model knows nothing
    assert losses[-1] < 0.75 * losses[0]


def test_outlier_gains_stay_and_the_others_move(small: LlamaConfig) -> None:
    run = trainer(small)
    for _ in range(5):
        run.advance()
    for name, tensor in run.parameters.items():
        if name.endswith("layernorm.weight"):
            others = [c for c in range(32) if c not in OUTLIERS.outlier_channels]
            assert tensor[list(OUTLIERS.outlier_channels)].tolist() == [30.0, 30.0]
            assert (tensor[others] != 1.0).any()
    assert (run.parameters["model.norm.weight"] < 2).all()


def test_a_plain_variant_has_unit_gains_and_the_same_matrices(small: LlamaConfig) -> None:
    plain, outlier = (initial_parameters(small, v, 7) for v in (Variant(), OUTLIERS))
    for name in plain:
        if plain[name].ndim == 2:
            assert torch.equal(plain[name], outlier[name])
        else:
            assert torch.equal(plain[name], torch.ones(32))
    embedding = "model.embed_tokens.weight"
    assert not torch.equal(initial_parameters(small, Variant(), 8)[embedding], plain[embedding])


def test_batches_depend_on_seed_and_step_alone() -> None:
    assert torch.equal(batch_at(TEXT, SCHEDULE, 5), batch_at(TEXT, SCHEDULE, 5))
    assert not torch.equal(batch_at(TEXT, SCHEDULE, 5), batch_at(TEXT, SCHEDULE, 6))
    assert not torch.equal(batch_at(TEXT, SCHEDULE, 5), batch_at(TEXT, replace(SCHEDULE, seed=1), 5))
    batch = batch_at(TEXT, SCHEDULE, 0)
    assert batch.shape == (4, 25)
    assert all(bytes(row.tolist()) in TEXT.data for row in batch)


def test_rate_rises_linearly_and_falls_to_a_twentieth() -> None:
    schedule = Schedule(steps=100, warmup=10, peak_rate=1.0)
    assert [schedule.rate(s) for s in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert schedule.rate(55) == pytest.approx(0.525)
    assert schedule.rate(100) == pytest.approx(0.05)


@pytest.fixture
def small_world(tmp_path: Path, small: LlamaConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command with a small model and text, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "CONFIG", small)
    monkeypatch.setattr(train, "VARIANTS", {"tiny": OUTLIERS})
    monkeypatch.setattr(train, "stdlib_text", lambda split: Text(name=split, data=TEXT.data * 20))
    return tmp_path


def test_command_writes_a_checkpoint_that_loads(small_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(["tiny", "--steps", "3", "--save-every", "2", "--device", "cpu"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 2/3" in captured.err
    assert "step 3/3" in captured.err
    model = load_model(small_world / "runs/train/tiny/checkpoint")
    record = model.training
    assert record["variant"] == {"outlier_channels": [3, 17], "outlier_gain": 30.0}
    assert record["train_text"]["bytes"] == len(TEXT.data) * 20
    assert len(record["loss_every_10_steps"]) == 1
    assert 4 < record["held_out_nats_per_byte"] < 6
    assert model.parameters["model.layers.0.input_layernorm.weight"][3] == 30.0


def test_command_resumes(small_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(["tiny", "--steps", "3", "--device", "cpu", "--out", "whole"])
    Path("runs/train/tiny/state.safetensors").rename("state.safetensors")
    state = Path("runs/train/tiny/state.safetensors")
    run = Trainer(OUTLIERS, Schedule(steps=3), train.CONFIG, train.stdlib_text("train"), "cpu")
    run.advance()
    run.save_state(state)
    train.main(["tiny", "--steps", "3", "--device", "cpu", "--out", "resumed"])
    assert "resumed" in capsys.readouterr().err
    whole, resumed = load_model(small_world / "whole"), load_model(small_world / "resumed")
    assert whole.sha256 == resumed.sha256
    assert whole.training == resumed.training
