"""Build a model of transformers on the meta device from its configuration, and the inputs of one pass of it."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from macloom.errors import MacloomError, unknown
from macloom.workloads.analytic import ARCHITECTURES
from macloom.workloads.analytic.diffusers import from_diffusers
from macloom.workloads.trace.stand_ins import ATTENTION, attention

DECODER, SEQ2SEQ, ENCODER, IMAGE = "decoder", "encoder-decoder", "encoder", "image"
"""What a model does with its input: makes tokens, makes them from other tokens, reads tokens, looks at an image."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A model without weights, its configuration, and how it is to be called."""

    model: Any
    config: Any
    kind: str

    @property
    def text(self) -> Any:
        """The configuration of the part that makes tokens."""
        return self.config.get_text_config(decoder=True)


def configuration(document: Mapping[str, Any]) -> Any:
    """Return the configuration object of a `config.json`.

    Raises:
        MacloomError: an architecture that transformers does not know, or a field that it refuses.
    """
    from transformers import AutoConfig
    from transformers.models.auto import configuration_auto

    known = vars(configuration_auto)["CONFIG_MAPPING_NAMES"]
    kind = from_diffusers(document).get("model_type")
    if not isinstance(kind, str) or kind not in known:
        import transformers

        if kind in ARCHITECTURES:
            raise MacloomError(
                f"config.model_type: transformers has no {kind!r} to trace; it has a formula here: give it to "
                "`macloom show`, `macloom simulate` or load_workload"
            )
        raise unknown("config.model_type", kind, known, f"architectures of transformers {transformers.__version__}")
    fields = {
        k: v for k, v in document.items() if k not in ("model_type", "source", "transformers_version", "auto_map")
    }
    try:
        return AutoConfig.for_model(kind, **fields)
    except Exception as error:
        raise MacloomError(f"config: transformers refuses it: {_line(error)}") from None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _model_class(config: Any, architectures: Any) -> tuple[str, str]:
    """Return the name of the class that a configuration is for, and the kind of model that it is."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    tables = {
        SEQ2SEQ: auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        ENCODER: auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        DECODER: auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        IMAGE: auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    }
    if getattr(config, "is_encoder_decoder", False):
        tables = {SEQ2SEQ: tables[SEQ2SEQ]}
    else:  # decoders that also listen or look
        tables[DECODER] = {**tables.pop(SEQ2SEQ), **tables[DECODER]}

    def names(table: Mapping[str, Any]) -> tuple[str, ...]:
        found = table.get(kind, ())
        return (found,) if isinstance(found, str) else tuple(found)

    wanted = architectures[0] if isinstance(architectures, list) and architectures else None
    for use, table in tables.items():
        if wanted in names(table):
            return str(wanted), use
    for use, table in tables.items():
        if names(table):
            return names(table)[0], use
    raise MacloomError(
        f"config.model_type: must be of a model that reads tokens or classifies images, not {kind!r}; models that "
        "listen or join several kinds of input are not traced"
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence transformers, which warns of kernels that a model without weights cannot have."""
    level = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("transformers").setLevel(level)


def build(document: Mapping[str, Any], *, eager: bool = False) -> Traced:
    """Return the model that a `config.json` describes, on the meta device: shapes without storage.

    Args:
        document: the content of a `config.json`.
        eager: keep the model's own attention, which is recorded product by product.

    Raises:
        MacloomError: unknown architecture, or transformers cannot build the model.
    """
    import transformers

    transformers.AttentionInterface.register(ATTENTION, attention)
    config = configuration(document)
    name, kind = _model_class(config, document.get("architectures"))
    text = config.get_text_config(decoder=True)
    parts = [config] if text is config else [config, text]
    # The last ones are for models that know no other attention than their own.
    ways = [(part, how) for how in (ATTENTION, "eager")[eager:] for part in parts]
    first = None
    for part, how in ways:
        try:
            model = _on_meta(name, part, how)
            return Traced(model=model.eval(), config=part, kind=kind)
        except Exception as error:
            first = first or error
    raise MacloomError(f"config: transformers cannot build {name}: {_line(first or Exception())}")


def _on_meta(name: str, config: Any, attention_name: str) -> Any:
    """Return a model without weights; what it has in 16 bits and what in 32 is as in published models."""
    import transformers

    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        config._attn_implementation = attention_name
        with _quietly(), torch.device("meta"):
            model = getattr(transformers, name)(config)
    finally:
        torch.set_default_dtype(before)
    for part in model.modules():
        # Read at every call: all experts in one product, in place of a loop over those that were chosen.
        if hasattr(part, "config") and hasattr(part.config, "_experts_implementation"):
            part.config._experts_implementation = "grouped_mm"
    return model


def image_shape(config: Any) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model takes."""
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return getattr(config, "num_channels", 3), height, width


def inputs(traced: Traced, tokens: int, batch: int, source: int, last: bool) -> dict[str, Any]:
    """Return the arguments of one pass: `tokens` of each request, or its image.

    `source` is the number of tokens of an encoder before a decoder; `last` asks for the logits of last tokens alone.
    """
    if traced.kind == IMAGE:
        return {"pixel_values": torch.empty((batch, *image_shape(traced.config)), device="meta", dtype=torch.bfloat16)}

    def ids(count: int) -> torch.Tensor:
        return torch.empty((batch, count), device="meta", dtype=torch.long)

    if traced.kind == ENCODER:
        return {"input_ids": ids(tokens)}
    taken = inspect.signature(traced.model.forward).parameters
    found = {"use_cache": True} | ({"logits_to_keep": 1} if last and "logits_to_keep" in taken else {})
    if traced.kind == SEQ2SEQ:
        return found | {"input_ids": ids(source), "decoder_input_ids": ids(tokens)}
    return found | {"input_ids": ids(tokens)}


@contextmanager
def running() -> Iterator[None]:
    """Run a model without gradients and without its warnings."""
    with _quietly(), torch.no_grad():
        yield
