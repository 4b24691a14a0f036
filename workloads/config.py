"""Model configurations: a Hugging Face `config.json`, checked, as the shape of a transformer.

The field names and defaults are those of the configuration classes in transformers, so a local
model directory needs no conversion. Only what decides operation shapes is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError, unknown
from macloom.workloads.families import ACTIVATIONS, FAMILIES, Family, flag, integer
from macloom.workloads.ops import VectorKind
from macloom.workloads.shape import DecoderConfig

TRACE = "macloom_trace"
"""The field by which a saved trace is told from a configuration; its value is the version of the layout."""

ZOO = Path(__file__).parent / "zoo"
EMBEDDED = Path(__file__).parent / "lm"


class Unsupported(MacloomError):
    """A configuration that may be right, but of a model that has no formula here; it can be traced."""


def _head_dim(config: Mapping[str, Any], hidden: int, heads: int, key: str) -> int:
    if config.get("head_dim") is None and hidden % heads:
        raise MacloomError(f"config.{key}: must divide hidden_size {hidden}, not {heads}")
    return integer(config, "head_dim", hidden // heads)


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


KEYS = {
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "vocab": "vocab_size",
    "max_positions": "max_position_embeddings",
}
"""Where a configuration keeps its sizes, unless its family says otherwise."""


def _window(config: Mapping[str, Any], layers: int, period: int) -> dict[str, Any]:
    if not period or config.get("sliding_window") is None:
        return {}
    return {"window": integer(config, "sliding_window"), "windowed_layers": -(-layers // period)}


def _key(config: Mapping[str, Any], family: Family, name: str) -> str:
    key = family.keys.get(name, KEYS.get(name, name))
    if isinstance(key, str):
        return key
    return next((k for k in key if config.get(k) is not None), key[0])


def _sizes(config: Mapping[str, Any], family: Family) -> dict[str, int]:
    def size(name: str, default: int | None = None) -> int:
        return integer(config, _key(config, family, name), family.defaults.get(name, default))

    hidden, heads = size("hidden"), size("heads")
    found = {
        "hidden": hidden,
        "heads": heads,
        "kv_heads": size("kv_heads", heads),
        "embedding": size("embedding", hidden),
    }
    found["head_dim"] = _head_dim(config, hidden, heads, _key(config, family, "heads"))
    # Families with a name of their own for the width of the MLP may leave it out: four times that of the model.
    found["intermediate"] = size("intermediate", 4 * hidden if "intermediate" in family.keys else None)
    for name in ("layers", "vocab", "max_positions", *({"experts", "experts_per_token"} & set(family.keys))):
        found[name] = size(name)
    return found


def decoder_config(config: Mapping[str, Any], architectures: Iterable[str] = ()) -> DecoderConfig:
    """Return the decoder or encoder that a Hugging Face configuration describes.

    Args:
        config: the content of a `config.json`.
        architectures: further names of `model_type` that the caller knows, for the message.

    Raises:
        Unsupported: a model or an option of one that has no formula.
        MacloomError: a field that is missing or malformed.

    >>> decoder_config({"model_type": "mamba"})
    Traceback (most recent call last):
        ...
    macloom.workloads.config.Unsupported: config.model_type: unknown name 'mamba'; did you mean 'llama'?
    """
    model_type = config.get("model_type")
    if model_type is None:
        raise MacloomError("config.model_type: is missing; it must be a name such as 'llama'")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise Unsupported(str(unknown("config.model_type", model_type, [*FAMILIES, *architectures])))
    family = FAMILIES[model_type]
    key, *allowed = family.activation
    activation = config.get(key, allowed[0])
    if activation not in allowed:
        raise Unsupported(f"config.{key}: must be {' or '.join(map(repr, allowed))}, not {activation!r}")
    for key, only in family.fixed.items():
        if config.get(key, only) != only:
            raise Unsupported(f"config.{key}: must be {json.dumps(only)}, not {json.dumps(config[key])}")
    sizes = _sizes(config, family)
    fields: dict[str, Any] = {
        "family": model_type,
        "names": family.names,
        "position_rows": 0,
        "activation": ACTIVATIONS[activation],
        "norm_parameters": sizes["hidden"] * (2 if family.traits["norm"] is VectorKind.LAYER_NORM else 1),
        **sizes,
        **family.traits,
        **{name: flag(config, key, default) for name, (key, default) in family.flags.items()},
        **_window(config, sizes["layers"], family.window_period),
    }
    return DecoderConfig(**fields | family.derive(config))


def config_paths() -> dict[str, Path]:
    """Return the name and `config.json` of every model that macloom knows, embedded models first."""
    embedded = {p.parent.name: p for p in sorted(EMBEDDED.glob("*/config.json"))}
    return embedded | {p.stem: p for p in sorted(ZOO.glob("*.json"), key=lambda p: p.stem)}


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
