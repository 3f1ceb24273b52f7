"""What docs/training.md says about the keys of a recipe, made of the schema."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from spender_core.training.config import (
    CardConfig,
    DataConfig,
    EngineConfig,
    LossConfig,
    ModelConfig,
    Phase,
    Recipe,
)
from spender_core.training.settings import AugmentationConfig, RestConfig

SECTIONS: dict[str, type[BaseModel]] = {
    "The top": Recipe,
    "[model]": ModelConfig,
    "[model.rest]": RestConfig,
    "[data.NAME]": DataConfig,
    "[data.NAME.augmentation]": AugmentationConfig,
    "[loss]": LossConfig,
    "[[phases]]": Phase,
    "[engine]": EngineConfig,
    "[card]": CardConfig,
}
"""Headings of the tables, and what each tells of."""

_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
_BOUNDS = {
    "exclusiveMinimum": ">",
    "minimum": "≥",
    "exclusiveMaximum": "<",
    "maximum": "≤",
}
_VAST = 1_000_000
"""Limits beyond this guard against nonsense; nobody needs to know them."""


def columns(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Return key, allowed values and default of each key, as the page has them."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        (
            key,
            allowed(one),
            "required" if key in required else default(one, model.model_fields[key]),
        )
        for key, one in schema["properties"].items()
    ]


def allowed(schema: dict[str, Any]) -> str:
    """Return what values are allowed, in words."""
    if "anyOf" in schema:
        return " or ".join(allowed(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "$ref" in schema:
        return "table"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if schema["type"] == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(allowed(one) for one in schema['prefixItems'])}]"
        inner = schema["items"]
        return "ramp" if inner.get("type") == "array" else f"list of {allowed(inner)}s"
    if schema["type"] == "object":
        inner = schema.get("additionalProperties")
        plain = not isinstance(inner, dict) or "$ref" in inner
        return "table" if plain else f"table of {allowed(inner)}"
    word = _TYPES[schema["type"]]
    if "minimum" in schema and schema.get("maximum", _VAST) < _VAST:
        return f"{word} {schema['minimum']:g} to {schema['maximum']:g}"
    signs = (f"{_BOUNDS[one]} {schema[one]:g}" for one in _BOUNDS if schema.get(one, _VAST) < _VAST)
    return " ".join([word, *signs])


def default(schema: dict[str, Any], field: Any) -> str:
    """Return the default, as TOML has it; "none" where a key has no value then."""
    value = schema.get("default", field.get_default(call_default_factory=True))
    if "$ref" in schema:
        return ""
    return "none" if value is None else f"`{json.dumps(value)}`"
