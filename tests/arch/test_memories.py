"""The DRAM presets: numbers that stand in several places agree, each has a source, and files read back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from macloom.arch import Dram, accelerator_to_toml, list_memories, load_accelerator, load_memory, load_technology
from macloom.errors import MacloomError

# Peak bandwidth in GB/s as usually quoted for the whole memory: 64 bits of DDR4, 64 of LPDDR5, a stack.
QUOTED = {"ddr4-3200": 25.6, "lpddr5-6400": 51.2, "hbm2e": 409.6, "hbm3": 819.2}


def test_quoted_bandwidths():
    assert {n: round(load_memory(n).dram.bandwidth_bits_per_s / 8e9, 6) for n in list_memories()} == QUOTED


@pytest.mark.parametrize("name", QUOTED)
def test_every_number_has_an_origin(name):
    memory = load_memory(name)
    assert memory.name == name
    assert memory.description
    assert set(memory.origins) == {f for f in Dram.__dataclass_fields__ if f != "kind"}
    for field, origin in memory.origins.items():
        assert len(origin.source) > 30, field
        times = memory.dram.channels if field == "bandwidth_bits_per_s" else 1
        assert getattr(memory.dram, field) == pytest.approx(origin.value * times)
    assert memory.dram.kind in load_technology("28nm").dram_kinds
    assert 0.88 < memory.dram.streaming_bits_per_s / memory.dram.bandwidth_bits_per_s < 0.96


@pytest.mark.parametrize("name", QUOTED)
def test_accelerators_with_presets_read_back(tmp_path, name):
    machine = replace(load_accelerator("olive-sa"), dram=load_memory(name, channels=3).dram)
    path = tmp_path / "machine.toml"
    path.write_text(accelerator_to_toml(machine))
    assert load_accelerator(path) == machine


def edited(tmp_path, old, new):
    text = accelerator_to_toml(load_accelerator("olive-sa"))
    assert old in text
    path = tmp_path / "machine.toml"
    path.write_text(text.replace(old, new))
    return path


FOUND = re.search(r"\[dram\]\n(.*?)\n\n", accelerator_to_toml(load_accelerator("olive-sa")), re.DOTALL)
assert FOUND is not None
DRAM = FOUND.group(1)


def test_a_file_may_name_a_preset(tmp_path):
    path = edited(tmp_path, DRAM, 'preset = "ddr4-3200"\nchannels = 4')
    assert load_accelerator(path).dram == load_memory("ddr4-3200", channels=4).dram


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('preset = "ddr4-320"', "arch.dram.preset: unknown name 'ddr4-320'; did you mean 'ddr4-3200'"),
        ('preset = "hbm3"\nkind = "hbm3"', "arch.dram.kind: must not be given beside preset"),
        ('preset = "hbm3"\nchannels = 0', "arch.dram.channels: must be a positive integer, not 0"),
        ('kind = "hbm2"\nbandwidth = "0 GB/s"', "arch.dram.bandwidth: must be positive, not '0 GB/s'"),
        ('kind = "hbm2"', "arch.dram.bandwidth: missing"),
        (
            'kind = "hbm2"\nbandwidth = "1 GB/s"\npage = "3 B"\nburst = "2 B"',
            "page_bits: must be a multiple of the burst",
        ),
        ('kind = "hbm2"\nbandwidth = "1 GB/s"\nactivate = "3 ns"', "activate_s: must be 0 without page_bits"),
        ('kind = "hbm2"\nbandwidth = "1 GB/s"\nrefresh = "3 ns"', "refresh_s: must be shorter than refresh_interval_s"),
    ],
)
def test_bad_drams(tmp_path, lines, message):
    with pytest.raises(MacloomError, match=message.replace(".", r"\.")):
        load_accelerator(edited(tmp_path, DRAM, lines))


@pytest.mark.parametrize("name", ["latency_s", "activate_s", "refresh_s"])
def test_times_are_not_negative(name):
    with pytest.raises(MacloomError, match=rf"arch\.dram\.{name}: must be zero or a positive number, not -1"):
        Dram(kind="hbm2", bandwidth_bits_per_s=1.0, **{name: -1})


def test_shared_memory_and_arrays_read_back(tmp_path):
    lines = "decoder_latency = 3\ncount = 2"
    path = edited(tmp_path, "decoder_latency = 0\ncount = 1", lines)
    path.write_text(path.read_text() + '\n[buffers.shared]\nsize = "4 MiB"\nbandwidth = "4096 bit/cycle"\nbanks = 8\n')
    machine = load_accelerator(path)
    assert (machine.array.count, machine.array.decoder_latency) == (2, 3)
    assert machine.array.pes == 2 * 64 * 64
    assert machine.buffers.shared is not None
    assert machine.buffers.shared.banks == 8
    again = tmp_path / "again.toml"
    again.write_text(accelerator_to_toml(machine))
    assert load_accelerator(again) == machine
