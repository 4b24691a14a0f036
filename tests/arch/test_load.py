"""Accelerators from TOML: the presets, files of the user, and every way in which a file can be wrong."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import macloom.arch as arch_room
from macloom.arch import (
    Accelerator,
    AccumulatorKind,
    Array,
    Buffers,
    Dataflow,
    Dram,
    ProcessingElement,
    Sram,
    VectorUnit,
    accelerator_to_toml,
    list_accelerators,
    list_technologies,
    load_accelerator,
    load_technology,
)
from macloom.errors import MacloomError

ROOM = Path(arch_room.__file__).parent
OLIVE = (ROOM / "presets" / "olive-sa.toml").read_text(encoding="utf-8")
TECHNOLOGY = """
name = "mine"
node = "40 nm"
voltage = "not stated"
[sources]
lab = "Measured on a test chip"
[constants]
int8_add = { value = "0.03 pJ", kind = "measured", source = "lab", node = "40 nm", voltage = "1.1 V" }
"""


def write(folder: Path, text: str, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", list_accelerators())
def test_presets_load_under_their_own_name(name):
    accelerator = load_accelerator(name)
    assert accelerator.name == name
    assert accelerator.description
    assert load_accelerator(accelerator) is accelerator


def test_presets_share_everything_but_the_array():
    shared = {
        (a.clock_hz, a.buffers, a.dram, a.vector, a.technology, a.array.dataflow, a.array.shadow_registers)
        for a in map(load_accelerator, list_accelerators())
    }
    assert len(shared) == 1
    accelerator = load_accelerator("olive-sa")
    # ANT's simulator: 512 KiB of buffers, 1024 bits of DRAM per cycle, 500 MHz.
    assert accelerator.buffers.size_bits == 512 * 1024 * 8
    assert accelerator.dram_bits_per_cycle == 1024
    assert accelerator.clock_hz == 500e6


def test_olive_has_4096_elements_and_int8_the_same_multiplier_cells():
    olive, int8 = load_accelerator("olive-sa").array, load_accelerator("int8-sa").array
    assert (olive.pes, olive.pe.significand_bits, olive.pe.fusable, olive.border_decoders) == (4096, 4, True, True)
    assert olive.pes * olive.pe.significand_bits**2 == int8.pes * int8.pe.significand_bits**2


def test_ports_of_the_presets_never_limit_the_array():
    for accelerator in map(load_accelerator, list_accelerators()):
        array, buffers = accelerator.array, accelerator.buffers
        assert buffers.operand_a.bandwidth_bits_per_cycle >= array.rows * array.pe.significand_bits
        assert buffers.operand_b.bandwidth_bits_per_cycle >= array.cols * array.pe.significand_bits
        assert buffers.output.bandwidth_bits_per_cycle >= array.cols * array.pe.accumulator_bits


def test_a_file_of_the_user_is_read_from_text_path_and_path_object(tmp_path):
    path = write(tmp_path, OLIVE.replace("rows = 64", "rows = 32").replace('name = "olive-sa"', 'name = "half"'))
    expected = load_accelerator("olive-sa")
    expected = replace(expected, name="half", array=replace(expected.array, rows=32))
    assert load_accelerator(path) == load_accelerator(str(path)) == expected


def test_optional_keys_have_the_defaults_of_the_records(tmp_path):
    text = """
    name = "small"
    clock = "1 GHz"
    technology = "7nm"
    array = { rows = 4, cols = 8, pe = { significand_bits = 8 } }
    buffers.operand_a = { size = "1 KiB", bandwidth = "64 bit/cycle" }
    buffers.operand_b = { size = "1 KiB", bandwidth = "8 B/cycle" }
    buffers.output = { size = "100 bit", bandwidth = "64 bit/cycle", double_buffered = false }
    dram = { kind = "ddr4-3200", bandwidth = "25.6 GB/s" }
    vector.lanes = 8
    """
    sram = Sram(size_bits=8192, bandwidth_bits_per_cycle=64)
    assert load_accelerator(write(tmp_path, text)) == Accelerator(
        name="small",
        clock_hz=1e9,
        array=Array(rows=4, cols=8, pe=ProcessingElement(significand_bits=8)),
        buffers=Buffers(operand_a=sram, operand_b=sram, output=replace(sram, size_bits=100, double_buffered=False)),
        dram=Dram(kind="ddr4-3200", bandwidth_bits_per_s=204.8e9),
        vector=VectorUnit(lanes=8),
        technology=load_technology("7nm"),
    )


@pytest.mark.parametrize("name", list_accelerators())
def test_to_dict_is_plain_json_with_units_in_the_names(name):
    accelerator = load_accelerator(name)
    data = accelerator.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["clock_hz"] == accelerator.clock_hz
    assert data["buffers"]["output"]["size_bits"] == accelerator.buffers.output.size_bits
    assert data["dram"]["bandwidth_bits_per_cycle"] == 1024
    pe = data["array"]["pe"]
    assert ProcessingElement(**{**pe, "accumulator": AccumulatorKind(pe["accumulator"])}) == accelerator.array.pe
    for constant in data["technology"]["constants"].values():
        assert constant["source"]
        assert constant["kind"] in ("measured", "published", "scaled", "estimated")
        assert {"value", "unit", "node_nm", "voltage_v"} <= constant.keys()


@pytest.mark.parametrize("name", list_accelerators())
def test_toml_of_a_preset_reads_back_equal_and_names_its_technology(name, tmp_path):
    text = accelerator_to_toml(load_accelerator(name))
    assert load_accelerator(write(tmp_path, text)) == load_accelerator(name)
    assert tomllib.loads(text)["technology"] == "22nm"
    assert 'clock = "500 MHz"' in text
    assert 'size = "256 KiB"' in text


def test_toml_writes_out_a_technology_that_is_not_in_the_package(tmp_path):
    base = load_accelerator("int8-sa")
    for technology in (
        replace(base.technology, name='quoted "name" \\ with \x7f and é'),
        replace(
            base.technology,
            constants={**base.technology.constants, "dram_my own": base.technology.constant("dram_hbm2")},
        ),
        replace(base.technology, node_nm=21.5, voltage_v=0.85),  # same name, other values
    ):
        accelerator = replace(base, technology=technology)
        assert load_accelerator(write(tmp_path, accelerator_to_toml(accelerator))) == accelerator


accelerators = st.builds(
    Accelerator,
    name=st.text(min_size=1, max_size=8).filter(str.strip),
    description=st.text(max_size=20),
    clock_hz=st.floats(1.0, 1e11) | st.integers(1, 10**11),
    array=st.builds(
        Array,
        rows=st.integers(1, 512).map(lambda n: 2 * n),
        cols=st.integers(1, 512).map(lambda n: 2 * n),
        pe=st.builds(
            ProcessingElement,
            significand_bits=st.integers(1, 16),
            exponent_bits=st.integers(0, 8),
            accumulator=st.sampled_from(AccumulatorKind),
            accumulator_bits=st.integers(32, 64),
            fusable=st.booleans(),
            block_scaling=st.booleans(),
        ),
        dataflow=st.sampled_from(Dataflow),
        shadow_registers=st.booleans(),
        border_decoders=st.booleans(),
    ),
    buffers=st.builds(Buffers, **dict.fromkeys(
        ("operand_a", "operand_b", "output"),
        st.builds(
            Sram,
            size_bits=st.integers(1, 2**40),
            bandwidth_bits_per_cycle=st.integers(1, 2**20),
            double_buffered=st.booleans(),
        ),
    )),
    dram=st.builds(Dram, kind=st.sampled_from(["hbm2", "ddr4-3200"]), bandwidth_bits_per_s=st.floats(1.0, 1e14)),
    vector=st.builds(VectorUnit, lanes=st.integers(1, 4096), bits=st.integers(1, 64)),
    technology=st.sampled_from([load_technology(n) for n in list_technologies()]),
)  # fmt: skip


@given(accelerators)
def test_any_accelerator_survives_toml(tmp_path_factory, accelerator):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(accelerator_to_toml(accelerator), encoding="utf-8")
    assert load_accelerator(path) == accelerator


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("rows = 64", "rows = 0", "arch.array.rows: must be a positive integer, not 0"),
        ("rows = 64", "rows = -3", "arch.array.rows: must be a positive integer, not -3"),
        ("rows = 64", 'rows = "64"', "arch.array.rows: must be a positive integer, not '64'"),
        ("rows = 64", "rows = 64.0", "arch.array.rows: must be a positive integer, not 64.0"),
        ("rows = 64", "rows = 63", "arch.array.rows: must be even, because the PEs fuse two by two, not 63"),
        ("rows = 64", "row = 64", "arch.array.row: unknown key; did you mean 'rows'?"),
        ("rows = 64", "", "arch.array.rows: missing; must be a positive integer"),
        (
            "rows = 64",
            "rows = 64\nzzz = 1",
            "arch.array.zzz: unknown key; known are rows, cols, pe, dataflow, shadow_registers, border_decoders",
        ),
        ("[dram]", "[memory]", "arch.memory: unknown key; known are name, description, clock, technology, array, "),
        ('clock = "500 MHz"', "clock = 500", "arch.clock: must be a frequency such as '500 MHz', not 500"),
        ('clock = "500 MHz"', 'clock = "0 Hz"', "arch.clock: must be positive, not '0 Hz'"),
        ('clock = "500 MHz"', "", "arch.clock: missing; must be a quantity with a unit"),
        (
            'size = "256 KiB"',
            'size = "256 MHz"',
            "arch.buffers.operand_a.size: must be a data size such as '256 KiB', not '256 MHz' (a frequency)",
        ),
        ('size = "256 KiB"', 'size = "0 KiB"', "arch.buffers.operand_a.size: must be positive, not '0 KiB'"),
        (
            'size = "256 KiB"',
            'size = "256 KB"',
            "arch.buffers.operand_a.size: must be a data size such as '256 KiB', not '256 KB' "
            "(unknown unit 'KB'; did you mean 'kB' or 'KiB'?)",
        ),
        (
            'bandwidth = "2048 bit/cycle"',
            'bandwidth = "0.5 bit/cycle"',
            "arch.buffers.output.bandwidth: must be a whole number of bit/cycle, not '0.5 bit/cycle'",
        ),
        (
            'bandwidth = "2048 bit/cycle"',
            'bandwidth = "64 GB/s"',
            "arch.buffers.output.bandwidth: must be a data size per cycle count such as '512 bit/cycle', not '64 GB/s' "
            "(a data size per time)",
        ),
        ('bandwidth = "64 GB/s"', 'bandwidth = "-64 GB/s"', "arch.dram.bandwidth: must be positive, not '-64 GB/s'"),
        (
            'kind = "hbm2"',
            'kind = "hbm7"',
            "arch.dram.kind: unknown name 'hbm7'; did you mean 'hbm3', 'hbm2', 'hbm2e'?",
        ),
        ('kind = "hbm2"', "kind = 2", "arch.dram.kind: must be a name, not 2"),
        ('dataflow = "os"', 'dataflow = "wss"', "arch.array.dataflow: unknown name 'wss'; did you mean 'ws'"),
        (
            'accumulator = "int"',
            'accumulator = "integer"',
            "arch.array.pe.accumulator: unknown name 'integer'; did you",
        ),
        (
            "exponent_bits = 5",
            "exponent_bits = -1",
            "arch.array.pe.exponent_bits: must be zero or a positive integer, not -1",
        ),
        (
            "exponent_bits = 5",
            "exponent_bits = false",
            "arch.array.pe.exponent_bits: must be zero or a positive integer, not F",
        ),
        ("fusable = true", "fusable = 1", "arch.array.pe.fusable: must be true or false, not 1"),
        ("lanes = 64", "lanes = 0", "arch.vector.lanes: must be a positive integer, not 0"),
        ('name = "olive-sa"', "", "arch.name: missing; must be a name"),
        ('name = "olive-sa"', 'name = ""', "arch.name: must be a name, not ''"),
        ('name = "olive-sa"', 'name = "x"\nvector = 3', "PATH: must be valid TOML; "),
        ("description =", "description = 1 #", "arch.description: must be a text, not 1"),
        ("[buffers.operand_b]", "[buffers.operand_c]", "arch.buffers.operand_c: unknown key; did you mean 'operand_b'"),
        (
            'technology = "22nm"',
            'technology = "23nm"',
            "technology: unknown name '23nm'; did you mean '28nm', '22nm', '7nm'?",
        ),
        ('technology = "22nm"', "technology = 22", "arch.technology: must be a name, not 22"),
        (
            'technology = "22nm"',
            "",
            "arch.technology: missing; must be a name (16nm, 22nm, 28nm, 45nm, 7nm), a TOML file or a table",
        ),
        (
            "rows = 64",
            "rows 64",
            "PATH: must be valid TOML; Expected '=' after a key in a key/value pair (at line 21, column 6)",
        ),
    ],
)
def test_each_mistake_in_a_file_gives_one_message_with_path_value_and_file(tmp_path, old, new, message):
    assert OLIVE.count(old) >= 1
    path = write(tmp_path, OLIVE.replace(old, new, 1))
    with pytest.raises(MacloomError) as caught:
        load_accelerator(path)
    text = str(caught.value)
    assert text.startswith(message.replace("PATH", str(path)))
    assert text.count(str(path)) == 1
    assert "\n" not in text


@pytest.mark.parametrize("key, value", [("array", 3), ("buffers", []), ("dram", "hbm2"), ("vector", 1.5)])
def test_a_section_must_be_a_table(tmp_path, key, value):
    lines = accelerator_to_toml(load_accelerator("int8-sa")).partition("[array]")
    sections = tomllib.loads(lines[1] + lines[2]) | {key: value}
    text = lines[0] + "\n".join(f"{name} = {inline(section)}" for name, section in sections.items())
    with pytest.raises(MacloomError) as caught:
        load_accelerator(write(tmp_path, text))
    assert str(caught.value).startswith(f"arch.{key}: must be a table, not {value!r} (in ")


def inline(value: object) -> str:
    """Return a TOML inline value."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def test_an_unknown_name_suggests_and_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        MacloomError, match=r"^accelerator: unknown name 'olive'; did you mean 'olive-sa'\? \(macloom li"
    ):
        load_accelerator("olive")
    with pytest.raises(MacloomError, match=r"^accelerator: must be a name or the path of a TOML file, not 7$"):
        load_accelerator(7)  # pyright: ignore[reportArgumentType]
    with pytest.raises(MacloomError, match=r"none\.toml: must be a TOML file; there is no such file$"):
        load_accelerator("none.toml")
    with pytest.raises(MacloomError, match=r": must be a TOML file; it is a directory$"):
        load_accelerator(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"name = \xff")
    with pytest.raises(MacloomError, match=r"binary\.toml: must be UTF-8 text; byte 7 is not$"):
        load_accelerator(binary)
    with pytest.raises(MacloomError, match=r"^technology: unknown name '22 nm'; did you mean '22nm'"):
        load_technology("22 nm")


def test_a_technology_file_is_found_beside_the_accelerator_and_may_include_others(tmp_path):
    n45 = (ROOM / "technologies" / "45nm.toml").read_text(encoding="utf-8")
    common = (ROOM / "technologies" / "common.toml").read_text(encoding="utf-8")
    write(tmp_path, n45.replace('name = "45nm"', 'name = "mine"').replace("common.toml", "shared.toml"), "tech.toml")
    write(tmp_path, common, "shared.toml")
    path = write(tmp_path, OLIVE.replace('technology = "22nm"', 'technology = "tech.toml"'))
    assert load_accelerator(path).technology == replace(load_technology("45nm"), name="mine")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("", "", "technology 'mine'.constants: must hold 'int32_add' (unit J); it is missing"),
        (
            "0.03 pJ",
            "0.03 pm",
            "technology.constants.int8_add.value: must be an energy such as '0.4 pJ', not '0.03 pm' ",
        ),
        (
            "int8_add",
            "int8_plus",
            "technology.constants: unknown name 'int8_plus'; did you mean 'int8_multiply', 'int8_add'",
        ),
        (
            '"lab"',
            '"lob"',
            "technology.constants.int8_add.source: unknown name 'lob'; did you mean 'lab'? (keys of [so",
        ),
        ('"measured"', '"seen"', "technology.constants.int8_add.kind: unknown name 'seen'; "),
        (
            'kind = "measured"',
            'kind = "measured", low = "1 pJ"',
            "technology.constants.int8_add.value: must be at least the lower bound 1e-12, not 3e-14",
        ),
        (
            ', voltage = "1.1 V"',
            "",
            "technology.constants.int8_add.voltage: missing; must be a quantity in V or 'not stated'",
        ),
        (
            'voltage = "1.1 V"',
            'volts = "1 V"',
            "technology.constants.int8_add.volts: unknown key; did you mean 'voltage",
        ),
        ('node = "40 nm"\n', 'node = "40"\n', "technology.node: must be a length such as '22 nm', not '40' (no unit)"),
        ('name = "mine"', 'name = "mine"\ninclude = 3', "technology.include: must be a list of TOML files, not 3"),
        ('"Measured on a test chip"', "3", "technology.sources.lab: must be a name, not 3"),
    ],
)
def test_each_mistake_in_a_technology_file_gives_one_message(tmp_path, old, new, message):
    path = write(tmp_path, TECHNOLOGY.replace(old, new, 1))
    with pytest.raises(MacloomError) as caught:
        load_technology(path)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(f"(in {path})")


def test_a_missing_include_names_the_file_that_is_missing_and_the_one_that_wants_it(tmp_path):
    path = write(tmp_path, TECHNOLOGY.replace('name = "mine"', 'name = "mine"\ninclude = ["gone.toml"]'))
    with pytest.raises(MacloomError) as caught:
        load_technology(path)
    gone = tmp_path / "gone.toml"
    assert str(caught.value) == f"{gone}: must be a TOML file; there is no such file (in {path})"
