"""Model configurations: a Hugging Face `config.json`, checked, as the shape of a decoder.

The field names and defaults are those of `LlamaConfig` and `OPTConfig` in transformers, so a local
model directory needs no conversion. Only what decides operation shapes is kept here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError, require_positive_integer, unknown

ZOO = Path(__file__).parent / "zoo"
EMBEDDED = Path(__file__).parent / "lm"


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A matrix of the model, named like its checkpoint module: `inputs` to `outputs` features."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.outputs * (self.inputs + self.bias)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder-only transformer.

    `embedding` is the width of the token embedding, which a few OPT models project to `hidden`.
    `norm_parameters` counts one norm; `position_rows` the learned position vectors (0: rotary).
    """

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    embedding: int
    position_rows: int
    norm_parameters: int
    final_norm: bool
    attention_bias: bool
    mlp_bias: bool
    tied: bool

    def __post_init__(self) -> None:
        for name in (
            "hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocab", "max_positions", "embedding",
        ):  # fmt: skip
            require_positive_integer(f"config.{name}", getattr(self, name))
        if self.heads % self.kv_heads:
            raise MacloomError(
                f"config.num_key_value_heads: must divide num_attention_heads {self.heads}, not {self.kv_heads}"
            )

    @property
    def projections(self) -> dict[str, Projection]:
        """Every matrix of one layer, by the last part of its name."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        bias = self.attention_bias
        llama = self.family == "llama"
        found = [
            Projection(name="self_attn.q_proj", inputs=self.hidden, outputs=q, bias=bias),
            Projection(name="self_attn.k_proj", inputs=self.hidden, outputs=kv, bias=bias),
            Projection(name="self_attn.v_proj", inputs=self.hidden, outputs=kv, bias=bias),
            Projection(name=f"self_attn.{'o_proj' if llama else 'out_proj'}", inputs=q, outputs=self.hidden, bias=bias),
        ]
        wide, narrow = self.intermediate, self.hidden
        rises = ("mlp.gate_proj", "mlp.up_proj") if llama else ("fc1",)
        found += [Projection(name=n, inputs=narrow, outputs=wide, bias=self.mlp_bias) for n in rises]
        found.append(
            Projection(name="mlp.down_proj" if llama else "fc2", inputs=wide, outputs=narrow, bias=self.mlp_bias)
        )
        return {p.name.rpartition(".")[2]: p for p in found}

    @property
    def parameters(self) -> int:
        """Weights of the whole model; a tied head is counted once, in the embedding."""
        layer = sum(p.parameters for p in self.projections.values()) + 2 * self.norm_parameters
        tables = self.vocab * self.embedding * (1 if self.tied else 2) + self.position_rows * self.hidden
        resize = 2 * self.hidden * self.embedding if self.embedding != self.hidden else 0
        return self.layers * layer + self.final_norm * self.norm_parameters + tables + resize


def _integer(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    if value is None:
        if default is None:
            raise MacloomError(f"config.{name}: is missing; it must be a positive integer")
        value = default
    require_positive_integer(f"config.{name}", value)
    return value


def _flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise MacloomError(f"config.{name}: must be true or false, not {value!r}")
    return value


def _fixed(config: Mapping[str, Any], name: str, only: str) -> None:
    if config.get(name, only) != only:
        raise MacloomError(f"config.{name}: must be {only!r}, not {config[name]!r}")


def _head_dim(config: Mapping[str, Any], hidden: int, heads: int) -> int:
    if config.get("head_dim") is None and hidden % heads:
        raise MacloomError(f"config.num_attention_heads: must divide hidden_size {hidden}, not {heads}")
    return _integer(config, "head_dim", hidden // heads)


def _llama(config: Mapping[str, Any]) -> DecoderConfig:
    _fixed(config, "hidden_act", "silu")
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    return DecoderConfig(
        family="llama",
        hidden=hidden,
        intermediate=_integer(config, "intermediate_size"),
        layers=_integer(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_integer(config, "num_key_value_heads", heads),
        head_dim=_head_dim(config, hidden, heads),
        vocab=_integer(config, "vocab_size"),
        max_positions=_integer(config, "max_position_embeddings", 2048),
        embedding=hidden,
        position_rows=0,
        norm_parameters=hidden,
        final_norm=True,
        attention_bias=_flag(config, "attention_bias", False),
        mlp_bias=_flag(config, "mlp_bias", False),
        tied=_flag(config, "tie_word_embeddings", False),
    )


def _opt(config: Mapping[str, Any]) -> DecoderConfig:
    _fixed(config, "activation_function", "relu")
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    positions = _integer(config, "max_position_embeddings", 2048)
    bias = _flag(config, "enable_bias", True)
    before = _flag(config, "do_layer_norm_before", True)
    return DecoderConfig(
        family="opt",
        hidden=hidden,
        intermediate=_integer(config, "ffn_dim"),
        layers=_integer(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=_head_dim({}, hidden, heads),
        vocab=_integer(config, "vocab_size"),
        max_positions=positions,
        embedding=_integer(config, "word_embed_proj_dim", hidden),
        position_rows=positions + 2,  # OPTLearnedPositionalEmbedding keeps two rows of padding in front
        norm_parameters=2 * hidden if _flag(config, "layer_norm_elementwise_affine", True) else 0,
        final_norm=before and not _flag(config, "_remove_final_layer_norm", False),
        attention_bias=bias,
        mlp_bias=bias,
        tied=_flag(config, "tie_word_embeddings", True),
    )


FAMILIES: dict[str, Callable[[Mapping[str, Any]], DecoderConfig]] = {"llama": _llama, "opt": _opt}


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object from a file.

    Raises:
        MacloomError: no such file, not UTF-8, not JSON, or not an object.
    """
    if not path.is_file():
        raise MacloomError(f"{path}: no such file")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MacloomError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise MacloomError(f"{path}: must hold a JSON object, not {type(document).__name__}")
    return document


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Put the path of a file in front of the message of an error that its content causes."""
    try:
        yield
    except MacloomError as error:
        raise MacloomError(f"{path}: {error}") from None


def decoder_config(config: Mapping[str, Any]) -> DecoderConfig:
    """Return the decoder that a Hugging Face configuration describes.

    >>> decoder_config({"model_type": "bert"})
    Traceback (most recent call last):
        ...
    macloom.errors.MacloomError: config.model_type: must be 'llama' or 'opt', not 'bert'
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise MacloomError(f"config.model_type: must be {' or '.join(map(repr, FAMILIES))}, not {family!r}")
    return FAMILIES[family](config)


def config_paths() -> dict[str, Path]:
    """Return the name and `config.json` of every model that macloom knows, embedded models first."""
    embedded = {p.parent.name: p for p in sorted(EMBEDDED.glob("*/config.json"))}
    return embedded | {p.stem: p for p in sorted(ZOO.glob("*.json"))}


def find_config(name_or_path: str | Path) -> tuple[str, Path]:
    """Return the name of a model and the path of its configuration.

    Args:
        name_or_path: a name of `config_paths`, a model directory, or a `config.json`.
    """
    known = config_paths()
    if str(name_or_path) in known:
        return str(name_or_path), known[str(name_or_path)]
    path = Path(name_or_path)
    if name_or_path == "":
        raise unknown("workload", name_or_path, known, "or give the path of a model directory")
    if path.is_dir():
        return path.resolve().name, path / "config.json"
    if path.is_file():
        return path.resolve().parent.name if path.name == "config.json" else path.stem, path
    if isinstance(name_or_path, Path) or path.suffix == ".json" or len(path.parts) > 1:
        raise MacloomError(f"workload: no such model directory or configuration {str(name_or_path)!r}")
    raise unknown("workload", name_or_path, known, "or give the path of a model directory")
