"""The chart's values as values.yaml documents them: its schema and its table are made from that.

A comment that begins with `# --` documents the value below it; a line `# @schema {…}` adds to what
its default says of its type. A value without either is a section of others.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from consumer.settings import ConsumerSettings
from ingest_api.settings import IngestSettings
from shared.errors import Misconfigured
from shared.settings import ServiceSettings

CHART: Final = Path(__file__).parent / "tidemark"
VALUE_SETS: Final = Path(__file__).parent / "values"

_DOCUMENTED: Final = "# -- "
_RULE: Final = "# @schema "
_TYPES: Final = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}

_SET_BY_THE_CHART: Final = {
    "": ("kafka", "listen", "shard_map_file"),
    "GroupSettings": ("instance_id",),
    "TelemetrySettings": ("peers",),
    "AuthSettings": ("public_keys_file", "revoked_tokens_file"),
    "ReceiptSettings": ("consumer_group",),
}
"""Settings that other values decide, by the model that they are members of."""

_OPTIONAL: Final = {"global"}

_DEFINITIONS: Final[Mapping[str, Any]] = {
    "numberOrPercent": {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^[0-9]{1,2}%$|^100%$"},
        ]
    },
    "shard": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "connectionsMax"],
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
            "connectionsMax": {"type": "integer", "minimum": 1},
            "partitions": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 719},
                "minItems": 2,
                "maxItems": 2,
            },
        },
    },
}


@dataclass(frozen=True, slots=True)
class Value:
    """One documented value, or a section of others."""

    name: str
    default: Any
    description: str = ""
    rule: Mapping[str, Any] = field(default_factory=dict)
    members: Sequence["Value"] = ()


def read_values(text: str) -> list[Value]:
    """Read values.yaml with its comments.

    Raises:
        Misconfigured: a value is neither documented nor a section.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return [_value(name, node, text.splitlines()) for name, node in root.value]


def _value(key: yaml.ScalarNode, node: yaml.Node, lines: Sequence[str]) -> Value:
    description, rule = _comment(lines, key.start_mark.line)
    default = yaml.safe_load(yaml.serialize(node))
    if description:
        return Value(key.value, default, description, rule)
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise Misconfigured(
            f"values.yaml line {key.start_mark.line + 1}: say what {key.value} is in a comment "
            f"above it that begins with '{_DOCUMENTED.strip()}'."
        )
    return Value(
        key.value, default, members=[_value(name, below, lines) for name, below in node.value]
    )


def _comment(lines: Sequence[str], line: int) -> tuple[str, Mapping[str, Any]]:
    """Return the description and the rule that stand right above a line."""
    first = line
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
    texts, rule = [], {}
    for comment in map(str.strip, lines[first:line]):
        if comment.startswith(_RULE):
            rule = json.loads(comment.removeprefix(_RULE))
        elif comment.startswith(_DOCUMENTED):
            texts = [comment.removeprefix(_DOCUMENTED)]
        elif texts:
            texts.append(comment.removeprefix("# "))
    return " ".join(texts), rule


def schema(values: Sequence[Value]) -> dict[str, Any]:
    """Return the JSON schema of the values; nothing that is not documented is allowed."""
    definitions = dict(_DEFINITIONS)
    root = _section(
        [*values, Value("global", {}, "Values that every chart of a parent chart sees.")],
        {
            "ingest": _settings(IngestSettings, definitions),
            "consumer": _settings(ConsumerSettings, definitions),
        },
    )
    used = set(_references([root, definitions]))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart tidemark",
        **root,
        "$defs": {name: each for name, each in definitions.items() if name in used},
    }


def _section(values: Sequence[Value], settings: Mapping[str, Any]) -> dict[str, Any]:
    properties = {}
    for value in values:
        if value.members:
            of_service = settings.get(value.name)
            below = {} if of_service is None else {"settings": of_service}
            properties[value.name] = _section(value.members, below)
        else:
            properties[value.name] = _leaf(value)
            if (of_service := settings.get(value.name)) is not None:
                properties[value.name] = {**of_service, "allOf": [_needed(value.default)]}
    return {
        "type": "object",
        "additionalProperties": False,
        # Helm drops what is set to null, and templates count on it.
        "required": [value.name for value in values if value.name not in _OPTIONAL],
        "properties": properties,
    }


def _needed(default: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema by which members that have a default may not be taken away."""
    below = {name: _needed(value) for name, value in default.items() if isinstance(value, dict)}
    return {"required": [*default], "properties": below}


def _leaf(value: Value) -> dict[str, Any]:
    typed = {} if "$ref" in value.rule else {"type": _TYPES[type(value.default)]}
    return {"description": value.description, **typed, **value.rule}


def _settings(model: type[ServiceSettings], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a service's settings, less those that the chart sets itself."""
    found = _without_titles(model.model_json_schema(by_alias=False))
    models = {**found.pop("$defs"), "": found}
    for model_name, names in _SET_BY_THE_CHART.items():
        for name in names:
            models.get(model_name, found)["properties"].pop(name, None)
    del models[""]
    definitions.update(models)
    return {**found, "description": model.__doc__}


def _without_titles(schema_part: Any) -> Any:
    if isinstance(schema_part, dict):
        return {
            key: _without_titles(value)
            for key, value in schema_part.items()
            if not (key in {"title", "default"} and not isinstance(value, dict))
        }
    if isinstance(schema_part, list):
        return [_without_titles(each) for each in schema_part]
    return schema_part


def _references(schema_part: Any) -> Iterator[str]:
    if isinstance(schema_part, dict):
        if isinstance(schema_part.get("$ref"), str):
            yield schema_part["$ref"].removeprefix("#/$defs/")
        for each in schema_part.values():
            yield from _references(each)
    elif isinstance(schema_part, list):
        for each in schema_part:
            yield from _references(each)


def table(values: Sequence[Value]) -> str:
    """Return the table of all values in Markdown."""
    rows = [
        f"| `{path}` | {_shown(value.default)} | {value.description} |"
        for path, value in _flat(values)
    ]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows])


def _flat(values: Sequence[Value], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for value in values:
        if value.members:
            yield from _flat(value.members, f"{prefix}{value.name}.")
        else:
            yield f"{prefix}{value.name}", value


def _shown(default: Any) -> str:
    return "" if default == "" else f"`{json.dumps(default)}`"
