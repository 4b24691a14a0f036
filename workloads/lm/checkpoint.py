"""Checkpoints in Hugging Face's layout: config.json, model.safetensors, a byte tokenizer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macloom.errors import MacloomError, unknown
from macloom.workloads.config import decoder_config, located, read_json
from macloom.workloads.lm.model import LlamaConfig

EMBEDDED = {name: Path(__file__).parent / name for name in ("tiny", "tiny-outlier")}


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A model in memory: float32 `parameters` by checkpoint name, and what identifies them.

    `sha256` is that of the weight file, or of the files' digests in name order when there are
    several. `training` is the checkpoint's own record of how it was made, where it has one.
    """

    name: str
    config: LlamaConfig
    parameters: Mapping[str, Tensor]
    sha256: str
    training: Mapping[str, Any] = field(default_factory=dict)


def _byte_alphabet() -> dict[str, int]:
    """Map GPT-2's printable stand-in of each byte to the byte itself (Radford et al. 2019, byte-level BPE)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    characters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return {characters[b]: b for b in range(256)}


def byte_tokenizer() -> dict[str, Any]:
    """Return a `tokenizer.json` whose token ids are the UTF-8 bytes."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": _byte_alphabet(), "merges": []},
    }


def hugging_face_config(config: LlamaConfig) -> dict[str, Any]:
    """Return the `config.json` that `transformers` needs to build the same model."""
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **fields,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def save_checkpoint(
    directory: Path, config: LlamaConfig, parameters: Mapping[str, Tensor], training: Mapping[str, Any]
) -> None:
    """Write a complete bfloat16 checkpoint; each file appears under its name only when it is whole."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    documents: dict[str, Any] = {
        "config.json": hugging_face_config(config),
        "tokenizer.json": byte_tokenizer(),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "\u0100"},
        "training.json": dict(training),
    }
    for name, document in documents.items():
        temporary = directory / f"{name}.partial"
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        temporary.replace(directory / name)
    tensors = {n: parameters[n].to(torch.bfloat16).contiguous() for n in config.parameter_shapes()}
    temporary = directory / "model.safetensors.partial"
    save_file(tensors, temporary, {"format": "pt"})
    temporary.replace(directory / "model.safetensors")


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise MacloomError(f"config.{name}: must be a positive number, not {value!r}")
    return float(value)


def _rope_theta(config: Mapping[str, Any]) -> float:
    """Return the rotary base; transformers 5 moved it, with the scaling, into `rope_parameters`."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key) or {}
        if not isinstance(rope, dict):
            raise MacloomError(f"config.{key}: must be an object or null, not {rope!r}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise MacloomError(f"config.{key}: must be plain rotary embedding ('default'), not {kind!r}")
        if rope.get("partial_rotary_factor", 1) != 1:
            raise MacloomError(f"config.{key}.partial_rotary_factor: must be 1, not {rope['partial_rotary_factor']!r}")
    inner = config.get("rope_parameters") or {}
    return _number(inner if "rope_theta" in inner else config, "rope_theta", 10000.0)


def llama_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Return the Llama that a `config.json` describes, or raise for anything this package cannot run.

    Absent fields take the defaults of `LlamaConfig` in transformers.
    """
    if config.get("model_type") != "llama":
        raise MacloomError(f"config.model_type: must be 'llama', not {config.get('model_type')!r}")
    architectures = config.get("architectures") or ["LlamaForCausalLM"]
    if architectures != ["LlamaForCausalLM"]:
        raise MacloomError(f"config.architectures: must be ['LlamaForCausalLM'], not {architectures!r}")
    if config.get("quantization_config"):
        raise MacloomError("config.quantization_config: must be absent; give the checkpoint before quantization")
    shape = decoder_config(config)
    for name, used in (("attention_bias", shape.attention_bias), ("mlp_bias", shape.mlp_bias)):
        if used:
            raise MacloomError(f"config.{name}: must be false, not true")
    if shape.head_dim * shape.heads != shape.hidden:
        raise MacloomError(
            f"config.head_dim: must be hidden_size / num_attention_heads = {shape.hidden / shape.heads:g}, "
            f"not {shape.head_dim}"
        )
    return LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=_number(config, "rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(config),
        tie_word_embeddings=shape.tied,
    )


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, in name order.

    Raises:
        MacloomError: none, only pickle, or an index that names files that are not there.
    """
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    if not index.is_file():
        if any(p.suffix in (".bin", ".pt", ".pth") for p in directory.iterdir()):
            raise MacloomError(
                f"{directory}: holds its weights as pickle (*.bin, *.pt, *.pth), which runs code when it is read; "
                "if you trust it, convert it once, with transformers: "
                "AutoModelForCausalLM.from_pretrained(directory).save_pretrained(new_directory), and give the new one"
            )
        raise MacloomError(f"{directory}: has no model.safetensors and no model.safetensors.index.json")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(s, str) for s in shards.values()):
        raise MacloomError(f"{index}: weight_map must be an object from tensor name to file name")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise MacloomError(f"{index}: names the file {name!r}, which is not in that directory")
    return [directory / name for name in names]


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - safe_open is not a mapping
                    yield name, shard.get_tensor(name)
        except SafetensorError as error:
            raise MacloomError(f"{file}: is not a whole safetensors file ({error}); copy it again") from None


def files_sha256(files: list[Path]) -> str:
    """Return the hash of one file, or of the hashes of several in order."""
    digests: list[str] = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _load_parameters(files: list[Path], config: LlamaConfig, where: Path) -> dict[str, Tensor]:
    """Return the float32 parameters in the order of `parameter_shapes`, each checked."""
    shapes = config.parameter_shapes()
    loaded: dict[str, Tensor] = {}
    tied_head: Tensor | None = None
    for name, tensor in _tensors(files):
        if name.endswith(".rotary_emb.inv_freq"):  # a constant that older transformers saved
            continue
        if name == "lm_head.weight" and config.tie_word_embeddings:
            tied_head = tensor.float()
            continue
        if name not in shapes:
            raise MacloomError(f"{where}: holds the tensor {name!r}, which its config.json has no place for")
        if tuple(tensor.shape) != shapes[name]:
            raise MacloomError(f"{where}: tensor {name!r} must be {shapes[name]}, not {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise MacloomError(f"{where}: tensor {name!r} must be floating point, not {tensor.dtype}")
        loaded[name] = tensor.float()
        if not torch.isfinite(loaded[name]).all():
            raise MacloomError(f"{where}: tensor {name!r} holds NaN or infinite values")
    missing = [name for name in shapes if name not in loaded]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MacloomError(f"{where}: lacks the tensor {missing[0]!r}{more}; the copy is incomplete")
    if tied_head is not None and not torch.equal(tied_head, loaded["model.embed_tokens.weight"]):
        raise MacloomError(f"{where}: tensor 'lm_head.weight' must equal the embedding, since the config ties them")
    return {name: loaded[name] for name in shapes}


def is_byte_llama(name_or_directory: str | Path) -> bool:
    """Return whether `load_model` is for this: anything but a directory that holds another model.

    >>> is_byte_llama("tiny")
    True
    """
    path = Path(name_or_directory) / "config.json"
    if str(name_or_directory) in EMBEDDED or not path.is_file():
        return True
    try:
        return llama_config(read_json(path)).vocab_size == 256
    except MacloomError:
        return False


def load_model(name_or_directory: str | Path) -> LanguageModel:
    """Read an embedded model by name, or a local Hugging Face directory that holds a Llama.

    Weights come from `model.safetensors` or from the shards that its index names, never from
    pickle, and are held in float32.

    Raises:
        MacloomError: unknown name, missing or malformed file, another architecture or a feature of
            it that this package does not run, tensors missing, superfluous, misshaped or not finite.
    """
    name = str(name_or_directory)
    directory = EMBEDDED.get(name, Path(name_or_directory))
    if not name or not directory.is_dir():
        if isinstance(name_or_directory, Path) or len(directory.parts) > 1:
            raise MacloomError(f"model: no such directory {name!r}")
        raise unknown("model", name, EMBEDDED, "or give a directory in Hugging Face layout")
    config_path = directory / "config.json"
    if not config_path.is_file():
        raise MacloomError(f"{directory}: has no config.json; give a directory in Hugging Face layout")
    document = read_json(config_path)
    with located(config_path):
        config = llama_config(document)
    files = weight_files(directory)
    training = directory / "training.json"
    return LanguageModel(
        name=name if name in EMBEDDED else directory.resolve().name,
        config=config,
        parameters=_load_parameters(files, config, directory),
        sha256=files_sha256(files),
        training=read_json(training) if training.is_file() else {},
    )
