"""SCALE-Sim's files: its own are read, its reports are written as it writes them, bad lines have a place."""

from __future__ import annotations

from pathlib import Path

import pytest

from macloom.errors import MacloomError
from macloom.sim.scalesim import (
    Conv,
    Gemm,
    Mode,
    Representation,
    read_config,
    read_topology,
    report_files,
    simulate_layer,
)
from macloom.sim.scalesim.oracle import repaired

CONFIG = """[general]
run_name = trial

[run_presets]
InterfaceBandwidth: USER
UseRamulatorTrace: False

[architecture_presets]
ArrayHeight:    8
ArrayWidth:     4
ifmapsramszkB:   2
filtersramszkB:  1
ofmapsramszkB:   2
IfmapOffset:    0
FilterOffset:   10000000
OfmapOffset:    20000000
Bandwidth : 6
Dataflow : ws
ReadRequestBuffer: 32
WriteRequestBuffer: 32

[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 2
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 12
FilterSRAMBankNum: 3
FilterSRAMBankPort: 2

[sparsity]
SparsitySupport : false
SparseRep : ellpack_block
OptimizedMapping : false
BlockSize : 8
RandomNumberGeneratorSeed : 40
"""
GEMMS = """Layer,M,N,K,
first,20,9,17,
second, 3, 30, 40,

"""
CONVS = """Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
conv1, 9, 8, 3, 2, 5, 6, 2,
DPwise, 5, 5, 3, 3, 3, 2, 1,
"""
SPARSE_GEMMS = """Layer, M, N, K, Sparsity,
first,20,9,17,2:4,
second,3,30,40,1:8,
third,3,30,40,
"""


def written(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_config_gives_array_memories_and_bandwidths(tmp_path: Path) -> None:
    setup = read_config(written(tmp_path, "run.cfg", CONFIG))
    config = setup.config
    assert (setup.name, setup.sparsity, config.mode, config.dataflow) == ("trial", None, Mode.USER, "ws")
    assert (config.rows, config.cols, config.ifmap_kb, config.filter_kb, config.ofmap_kb) == (8, 4, 2, 1, 2)
    assert (config.bw_ifmap, config.bw_filter, config.bw_ofmap) == (10, 12, 6)


def test_v2_takes_all_bandwidths_from_one_key(tmp_path: Path) -> None:
    text = CONFIG[: CONFIG.index("[layout]")].replace("UseRamulatorTrace: False\n", "")
    config = read_config(written(tmp_path, "run.cfg", text), "v2").config
    assert (config.bw_ifmap, config.bw_filter, config.bw_ofmap) == (6, 6, 6)


def test_topologies_of_products_and_convolutions(tmp_path: Path) -> None:
    assert read_topology(written(tmp_path, "g.csv", GEMMS)) == (
        Gemm(name="first", m=20, n=9, k=17),
        Gemm(name="second", m=3, n=30, k=40),
    )
    sparse = read_topology(written(tmp_path, "s.csv", SPARSE_GEMMS), sparse=True)
    assert [layer.sparsity for layer in sparse] == [(2, 4), (1, 8), (1, 1)]
    assert {layer.sparsity for layer in read_topology(tmp_path / "s.csv")} == {None}
    conv, *depthwise = read_topology(written(tmp_path, "c.csv", CONVS))
    assert conv == Conv(name="conv1", h=9, w=8, fh=3, fw=2, channels=5, filters=6, stride=2)
    assert [layer.name for layer in depthwise] == ["DPwiseChannel_0", "DPwiseChannel_1", "DPwiseChannel_2"]
    assert {layer.channels for layer in depthwise if isinstance(layer, Conv)} == {1}


def test_last_comma_is_optional_and_stride_may_have_a_width(tmp_path: Path) -> None:
    """SCALE-Sim drops what has no comma behind it: a product without one fails an assertion there."""
    (layer,) = read_topology(written(tmp_path, "g.csv", "Layer,M,N,K,,\nonly,1,2,3,,#dw, 5\n# nothing\n"))
    assert layer == Gemm(name="only", m=1, n=2, k=3)
    (layer,) = read_topology(written(tmp_path, "g.csv", "Layer,M,N,K\nonly,1,2,3\n"))
    assert layer == Gemm(name="only", m=1, n=2, k=3)
    (layer,) = read_topology(
        written(tmp_path, "c.csv", CONVS.splitlines()[0] + "\nx,9,9,3,3,1,1,2,1,2:4\n"), sparse=True
    )
    assert isinstance(layer, Conv)
    assert (layer.strides, layer.sparsity) == ((2, 1), (2, 4))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("topology", [GEMMS, CONVS, SPARSE_GEMMS], ids=["gemm", "conv", "sparse"])
@pytest.mark.parametrize("mode", ["CALC", "USER"])
@pytest.mark.parametrize("dataflow", ["os", "ws", "is"])
def test_report_files_equal_what_installed_scalesim_writes(
    dataflow: str, mode: str, topology: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_sim = pytest.importorskip("scalesim.scale_sim")
    repaired()
    sparse = topology is SPARSE_GEMMS
    text = CONFIG.replace("Dataflow : ws", f"Dataflow : {dataflow}").replace("USER", mode)
    text = text.replace("SparsitySupport : false", f"SparsitySupport : {str(sparse).lower()}")
    representation = "ellpack_block" if mode == "CALC" else "csc" if dataflow == "os" else "csr"
    text = text.replace("ellpack_block", representation)
    config, layers = written(tmp_path, "run.cfg", text), written(tmp_path, "layers.csv", topology)
    layout = written(tmp_path, "layout.csv", "Layer\n")
    monkeypatch.chdir(tmp_path)
    theirs = scale_sim.scalesim(
        save_disk_space=True,
        verbose=False,
        config=str(config),
        topology=str(layers),
        layout=str(layout),
        input_type_gemm=topology is not CONVS,
    )
    theirs.run_scale(top_path=str(tmp_path / "theirs"))
    setup = read_config(config)
    mine = read_topology(layers, sparse=sparse)
    files = report_files(mine, [simulate_layer(layer, setup.config) for layer in mine], setup.sparsity)
    directory = tmp_path / "theirs" / "trial"
    assert {path.name for path in directory.iterdir()} == set(files)
    for name, content in files.items():
        assert content == (directory / name).read_text(encoding="utf-8"), name


def test_v2_report_has_no_cycles_with_prefetch(tmp_path: Path) -> None:
    setup = read_config(written(tmp_path, "run.cfg", CONFIG), "v2")
    layers = read_topology(written(tmp_path, "g.csv", GEMMS))
    reports = [simulate_layer(layer, setup.config, "v2") for layer in layers]
    header, first, _ = report_files(layers, reports, version="v2")["COMPUTE_REPORT.csv"].splitlines()
    assert header == "LayerID, Total Cycles, Stall Cycles, Overall Util %, Mapping Efficiency %, Compute Util %,"
    assert first.startswith(f"0, {reports[0].total_cycles}, {reports[0].stall_cycles}, ")


BAD_CONFIGS = [
    (("ArrayHeight:    8", "ArrayHeight:    0"), "9:17: ArrayHeight: must be a positive integer, not '0'"),
    (("Bandwidth : 6", "Bandwidth : six"), "17:13: Bandwidth: must be a positive integer, not 'six'"),
    (("FilterSRAMBankBandwidth: 12", "FilterSRAMBankBandwidth: 0"), "28:26: FilterSRAMBankBandwidth: must be a"),
    (("Dataflow : ws", "Dataflow : rs"), "18:12: Dataflow: unknown name 'rs'; did you mean 'ws', 'os', 'is'?"),
    (("InterfaceBandwidth: USER", "InterfaceBandwidth: FAST"), "5:21: InterfaceBandwidth: unknown name 'FAST'; known"),
    (("IfmapCustomLayout: False", "IfmapCustomLayout: True"), "23:20: IfmapCustomLayout: must be False: layouts"),
    (("UseRamulatorTrace: False", "UseRamulatorTrace: True"), "6:20: UseRamulatorTrace: must be False: lat"),
    (("OptimizedMapping : false", "OptimizedMapping : true"), "35:20: OptimizedMapping: must be False: random"),
    (("[layout]", "[layout"), "22:1: must be '[section]' or 'key = value', not '[layout'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_CONFIGS)
def test_bad_config_has_a_place(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, "bad.cfg", CONFIG.replace(*change))
    with pytest.raises(MacloomError) as error:
        read_config(path)
    assert str(error.value).startswith(f"{path}:{message}")


def test_missing_key_and_bad_representation(tmp_path: Path) -> None:
    path = written(tmp_path, "bad.cfg", CONFIG.replace("ArrayWidth:     4\n", ""))
    with pytest.raises(MacloomError, match=r"bad\.cfg: \[architecture_presets\] must have the key ArrayWidth$"):
        read_config(path)
    text = CONFIG.replace("SparsitySupport : false", "SparsitySupport : true").replace("ellpack_block", "coo")
    with pytest.raises(
        MacloomError, match=r":34:13: SparseRep: unknown name 'coo'; known are csc, csr, ellpack_block$"
    ):
        read_config(written(tmp_path, "bad.cfg", text))
    assert read_config(written(tmp_path, "good.cfg", text.replace("coo", "csr"))).sparsity is Representation.CSR


BAD_TOPOLOGIES = [
    ("Layer,M,N,K,\nfirst,20,9,x,\n", "2:12: K: must be a positive integer, not 'x'"),
    ("Layer,M,N,K,\nfirst, 20,  -9,1,\n", "2:13: N: must be a positive integer, not '-9'"),
    ("Layer,M,N,K,\n\nfirst,20,9,\n", "3:10: must be followed by K: a layer has a name and 3 sizes"),
    ("Layer,M,N,K,\nfirst,20,9,1,4:2,\n", "2:14: sparsity: must be N:M with 1 <= N <= M, such as 2:4, not '4:2'"),
    ("Layer,M,N,K,\nfirst,20,9,1,2:4,5,\n", "2:18: must be the end of the line, not '5'"),
    ("first,20,9,1,\n", "1:7: must be a header, because SCALE-Sim skips the first line; put one before it"),
    ("Layer,A,B,\nfirst,20,9,1,\n", "1:1: must be the header of a product ('Layer, M, N, K,') or of a convolution"),
    (CONVS.splitlines()[0] + "\nconv,4,4,5,3,1,1,1,\n", "2:10: layer.fh: must not exceed the input's h of 4, not 5"),
    (CONVS.splitlines()[0] + "\nconv,4,4,3,3,1,1,0,\n", "2:18: stride: must be a positive integer, not '0'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_TOPOLOGIES)
def test_bad_topology_has_a_place(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, "bad.csv", text)
    with pytest.raises(MacloomError) as error:
        read_topology(path)
    assert str(error.value).startswith(f"{path}:{message}")


def test_files_that_hold_nothing_or_are_none(tmp_path: Path) -> None:
    with pytest.raises(MacloomError, match=r"must have a header and a layer, not an empty file$"):
        read_topology(written(tmp_path, "a.csv", ""))
    with pytest.raises(MacloomError, match=r"must have at least one layer below the header$"):
        read_topology(written(tmp_path, "b.csv", "Layer,M,N,K,\n,,,\n"))
    with pytest.raises(MacloomError, match=r"cannot be read: No such file or directory$"):
        read_config(tmp_path / "none.cfg")
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MacloomError, match=r"must be text in UTF-8$"):
        read_topology(tmp_path / "c.csv")
