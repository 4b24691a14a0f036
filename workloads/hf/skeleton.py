"""The modules of a model without its weights: every parameter on the meta device, every buffer real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from macloom.errors import MacloomError
from macloom.workloads.hf.checkpoint import Checkpoint

INTERFACE = "macloom"
"""The name under which transformers finds macloom's attention, masks and experts."""


class Kind(StrEnum):
    """What a model predicts, and so how it is scored."""

    CAUSAL = "causal language model"
    MASKED = "masked language model"
    IMAGE = "image classifier"


SUFFIXES = {
    "ForCausalLM": Kind.CAUSAL,
    "LMHeadModel": Kind.CAUSAL,
    "ForMaskedLM": Kind.MASKED,
    "ForImageClassification": Kind.IMAGE,
}
"""The end of the name of an architecture in transformers, and what such a model predicts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Skeleton:
    """A model of transformers whose parameters are on the meta device.

    Attributes:
        layers: the names of its blocks, in order.
        head: the name of the product that gives the logits; None where there is none.
        positions: the longest input it has positions for; None where there is no limit.
    """

    name: str
    kind: Kind
    model: Any
    layers: tuple[str, ...]
    head: str | None
    vocabulary: int
    positions: int | None

    def module(self, name: str) -> nn.Module:
        return self.model.get_submodule(name)


def require_transformers(what: str) -> Any:
    """Return the module `transformers`.

    Raises:
        MacloomError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise MacloomError(f"{what}: needs transformers; pip install 'macloom[llm]'") from None
    return transformers


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Put every parameter that a module registers on the meta device, at once; buffers stay where they are.

    Buffers that no checkpoint holds, such as rotary frequencies, so keep the values their module computes.
    """
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.detach().to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def build_skeleton(checkpoint: Checkpoint) -> Skeleton:
    """Return the model that a checkpoint's configuration describes, in float32, ready for macloom's products.

    Raises:
        MacloomError: no transformers, an architecture it does not know or that macloom does not run.
    """
    directory = checkpoint.directory
    transformers = require_transformers(f"model {str(directory)!r}")
    where = f"{directory / 'config.json'}: config"
    architecture = (checkpoint.config.get("architectures") or [None])[0]
    kind = next((k for suffix, k in SUFFIXES.items() if str(architecture).endswith(suffix)), None)
    cls = getattr(transformers, str(architecture), None)
    if kind is None or cls is None:
        known = "LlamaForCausalLM, BertForMaskedLM, ViTForImageClassification"
        raise MacloomError(
            f"{where}.architectures: must begin with a causal language model, masked language model or image "
            f"classifier of transformers {transformers.__version__} (such as {known}), not {architecture!r}"
        )
    _register()
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        model = _built(cls, config)
    except Exception as error:
        raise MacloomError(f"{where}: transformers cannot build {architecture} from it: {error}") from None
    if getattr(config, "is_encoder_decoder", False):
        raise MacloomError(f"{where}.is_encoder_decoder: must be false; give a decoder or an encoder alone")
    model.eval()
    text = config.get_text_config()
    return Skeleton(
        name=directory.resolve().name,
        kind=kind,
        model=model,
        layers=_layers(model),
        head=_head(model, kind),
        vocabulary=int(config.num_labels if kind is Kind.IMAGE else text.vocab_size),
        positions=None if kind is Kind.IMAGE else getattr(text, "max_position_embeddings", None),
    )


def _built(cls: Any, config: Any) -> Any:
    """Return the model without its weights; a family that knows no attention but its own keeps the eager one."""
    config.use_cache = False
    config._experts_implementation = INTERFACE
    with parameters_on_meta():
        try:
            config._attn_implementation = INTERFACE
            return cls._from_config(config, dtype=torch.float32)
        except KeyError:
            config._attn_implementation = "eager"
            return cls._from_config(config, dtype=torch.float32)


def _layers(model: Any) -> tuple[str, ...]:
    """Return the names of the blocks: the module list that holds most of the parameters."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise MacloomError(f"model {type(model).__name__}: must hold its blocks in a module list, and has none")
    name = max(lists, key=lambda n: sum(p.numel() for p in lists[n].parameters()))
    return tuple(f"{name}.{index}" for index in range(len(lists[name])))


def _head(model: Any, kind: Kind) -> str | None:
    head = getattr(model, "classifier", None) if kind is Kind.IMAGE else model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None) if head else None


def _register() -> None:
    """Tell transformers of macloom's attention and experts; doing so again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.moe import ExpertsInterface
    from transformers.masking_utils import eager_mask

    from macloom.workloads.hf.interfaces import attention, experts

    AttentionInterface.register(INTERFACE, attention)
    AttentionMaskInterface.register(INTERFACE, eager_mask)
    ExpertsInterface.register(INTERFACE, experts)
