"""Recipes: which number format each tensor of a model is stored and multiplied in.

A recipe names a format for every role, exceptions by operation, the accumulator and the scale
search. It is the same object for accuracy and for cost, and knows nothing of any one model.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from macloom.errors import MacloomError, require_positive_integer, unknown
from macloom.formats import TensorFormat, get_accumulator, get_format
from macloom.workloads.ops import Role

_ROLES = tuple(Role)
OPERAND_ROLES = (Role.WEIGHT, Role.ACTIVATION, Role.KV, Role.PROBABILITY)
DEFAULT_OUTPUT = "fp16"
DEFAULT_OVERRIDES = (("lm_head", "fp16"),)


class Objective(StrEnum):
    """What the scale search minimises."""

    ABSMAX = "absmax"  # nothing: the absolute maximum lands on the largest normal value
    TENSOR_MSE = "tensor_mse"  # squared error of the operand
    OUTPUT_MSE = "output_mse"  # squared error of the product, the other operand unquantized


@dataclass(frozen=True, kw_only=True)
class Search:
    """The scale search, the same for every format: clip ratios `ratio**0 .. ratio**(steps-1)`.

    A clip ratio is the fraction of the absolute maximum that lands on the format's largest normal
    value. The defaults reach down to 1/200, so that a format with outlier codes may put its normal
    values where most of the tensor is.
    """

    objective: Objective = Objective.TENSOR_MSE
    steps: int = 24
    ratio: float = 2 ** (-1 / 3)

    def __post_init__(self) -> None:
        if self.objective not in list(Objective):
            raise unknown("search.objective", self.objective, [o.value for o in Objective])
        object.__setattr__(self, "objective", Objective(self.objective))
        require_positive_integer("search.steps", self.steps)
        if isinstance(self.ratio, bool) or not isinstance(self.ratio, (int, float)) or not 0 < self.ratio < 1:
            raise MacloomError(f"search.ratio: must be a number between 0 and 1, not {self.ratio!r}")

    @property
    def candidates(self) -> tuple[float, ...]:
        """The clip ratios to try, largest first.

        >>> Search(steps=3, ratio=0.5).candidates
        (1.0, 0.5, 0.25)
        >>> Search(objective=Objective.ABSMAX).candidates
        (1.0,)
        """
        steps = 1 if self.objective is Objective.ABSMAX else self.steps
        return tuple(float(self.ratio) ** k for k in range(steps))

    def to_dict(self) -> dict[str, Any]:
        return {"objective": str(self.objective), "steps": self.steps, "ratio": self.ratio}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A format for every role, exceptions by operation name, an accumulator and a scale search.

    `kv` holds keys and values; query vectors count as activations. `overrides` are pairs of a glob
    pattern and the format of all operands of the operations it matches; the first match wins.
    `accumulator` is a name for `macloom.formats.get_accumulator` and concerns the operations without
    an override; None, and overridden operations, take what `macloom.formats.default_accumulator` gives.
    """

    name: str
    weight: TensorFormat
    activation: TensorFormat
    kv: TensorFormat
    probability: TensorFormat
    output: TensorFormat
    overrides: tuple[tuple[str, TensorFormat], ...] = ()
    accumulator: str | None = None
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if not self.name:
            raise MacloomError("recipe.name: must be a non-empty string, not ''")
        formats = [(f"recipe.{role}", getattr(self, role)) for role in Role]
        formats += [(f"recipe.overrides[{pattern!r}]", fmt) for pattern, fmt in self.overrides]
        for path, fmt in formats:
            if not isinstance(fmt, TensorFormat):
                raise MacloomError(f"{path}: must be a TensorFormat (see macloom.get_format), not {fmt!r}")
        if self.accumulator is not None:
            try:
                get_accumulator(self.accumulator)
            except MacloomError as error:
                raise MacloomError(f"recipe.accumulator: {error}") from None

    def format_for(self, role: Role | str, op_name: str) -> TensorFormat:
        """Return the format of a tensor by its role in the operation `op_name`.

        A pattern matches the whole name or its end after a dot, so `q_proj` and `self_attn.*` match
        `model.layers.0.self_attn.q_proj`. Overrides concern operands, not the output.

        >>> recipe = load_recipe("int4")
        >>> recipe.format_for("weight", "model.layers.0.mlp.up_proj").name
        'int4'
        >>> recipe.format_for("weight", "lm_head").name
        'fp16'
        """
        if role not in _ROLES:
            raise unknown("role", role, [r.value for r in Role])
        override = None if role == Role.OUTPUT else self._override(op_name)
        return override or getattr(self, role)

    def accumulator_for(self, op_name: str) -> str | None:
        """Return the declared accumulator of an operation; None for the default one of its operands."""
        return None if self._override(op_name) else self.accumulator

    def _override(self, op_name: str) -> TensorFormat | None:
        return next((fmt for pattern, fmt in self.overrides if is_matched(pattern, op_name)), None)

    def unmatched(self, op_names: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns of overrides, other than the default ones, that match none of these operations.

        >>> recipe = replace(load_recipe("int4"), overrides=(("q_porj", load_recipe("int8").weight),))
        >>> recipe.unmatched(["model.layers.0.self_attn.q_proj"])
        ('q_porj',)
        """
        names, defaults = list(op_names), dict(DEFAULT_OVERRIDES)
        return tuple(p for p, _ in self.overrides if p not in defaults and not any(is_matched(p, n) for n in names))

    def with_accumulator(self, accumulator: str | None) -> Recipe:
        """Return the recipe with another accumulator; None leaves it as it is.

        >>> load_recipe("int4").with_accumulator("int16:saturate").accumulator
        'int16:saturate'
        """
        return self if accumulator is None else replace(self, accumulator=accumulator)

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved recipe, ready for JSON."""
        return {
            "name": self.name,
            **{str(role): getattr(self, role).name for role in Role},
            "overrides": {pattern: fmt.name for pattern, fmt in self.overrides},
            "accumulator": self.accumulator,
            "search": self.search.to_dict(),
        }

    def to_toml(self) -> str:
        """Return the resolved recipe as text that `load_recipe` reads back to an equal recipe."""
        document = self.to_dict()
        tables = {"overrides": document.pop("overrides"), "search": document.pop("search")}
        lines = [f"{key} = {json.dumps(value)}" for key, value in document.items() if value is not None]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"


def is_matched(pattern: str, op_name: str) -> bool:
    """Return whether the pattern of an override matches the whole name of an operation, or its end after a dot.

    >>> is_matched("q_proj", "model.layers.0.self_attn.q_proj"), is_matched("proj", "model.layers.0.self_attn.q_proj")
    (True, False)
    """
    return fnmatchcase(op_name, pattern) or fnmatchcase(op_name, f"*.{pattern}")


def load_recipe(source: str | Path | Recipe) -> Recipe:
    """Return the recipe that a format string, a TOML file or a recipe stands for.

    A format string gives that format to every operand role, with fp16 outputs and an fp16 output
    head. In a TOML file `format` does the same for the roles that are not given one by one.

    Raises:
        MacloomError: unknown format or key, malformed or missing file.

    >>> load_recipe("int4").kv.name
    'int4'
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Path) or source.endswith(".toml") or os.sep in source:
        return _recipe_from_file(Path(source))
    fmt = _format("recipe", source)
    return _recipe(fmt.name, {"format": source}, where="recipe")


def _recipe_from_file(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MacloomError(
            f"recipe: no such file {str(path)!r}; give a format (macloom list formats) or the path of a TOML recipe"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MacloomError(f"recipe: cannot read {str(path)!r}: {error}") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MacloomError(f"{path}: malformed TOML: {error}") from None
    return _recipe(path.stem, document, where=str(path))


def _recipe(name: str, document: Mapping[str, Any], where: str) -> Recipe:
    """Build a recipe from a TOML document; `where` begins every error message."""
    allowed = ["name", "format", *(r.value for r in Role), "overrides", "accumulator", "search"]
    for key in document:
        if key not in allowed:
            raise unknown(f"{where}: key", key, allowed)
    for key in ("name", "accumulator"):
        if not isinstance(document.get(key, "-"), str) or document.get(key) == "":
            raise MacloomError(f"{where}: {key}: must be a non-empty string, not {document[key]!r}")

    formats: dict[str, TensorFormat] = {}
    for role in Role:
        fallback = DEFAULT_OUTPUT if role is Role.OUTPUT else document.get("format")
        text = document.get(role, fallback)
        if text is None:
            raise MacloomError(f"{where}: {role}: must be given, or `format` for every operand role that is not")
        formats[role] = _format(f"{where}: {role if role in document else 'format'}", text)

    overrides = _table(where, document, "overrides", dict(DEFAULT_OVERRIDES))
    search = _table(where, document, "search", {})
    for key in search:
        if key not in Search.__dataclass_fields__:
            raise unknown(f"{where}: search: key", key, Search.__dataclass_fields__)
    exceptions = tuple((p, _format(f"{where}: overrides[{p!r}]", text)) for p, text in overrides.items())
    try:
        return Recipe(
            name=document.get("name", name),
            **formats,
            overrides=exceptions,
            accumulator=document.get("accumulator"),
            search=Search(**search),
        )
    except MacloomError as error:
        raise MacloomError(f"{where}: {error}") from None


def _table(where: str, document: Mapping[str, Any], key: str, default: dict[str, Any]) -> dict[str, Any]:
    table = document.get(key, default)
    if not isinstance(table, dict):
        raise MacloomError(f"{where}: {key}: must be a table, not {table!r}")
    return table


def _format(path: str, text: object) -> TensorFormat:
    if not isinstance(text, str):
        raise MacloomError(f"{path}: must be a format string, not {text!r}")
    try:
        return get_format(text)
    except MacloomError as error:
        raise MacloomError(f"{path}: {error}") from None
