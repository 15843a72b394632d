"""The help text of a service, generated from its settings."""

import json
import textwrap
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shared.settings import ServiceSettings


def usage(program: str, summary: str, settings: type[ServiceSettings], example: str) -> str:
    """Return what `--help` prints: each variable with its default and its sentence."""
    lines = [f"Usage: {program} [--help]", "", *textwrap.wrap(summary, 96), "", "Settings:"]
    prefix = settings.model_config.get("env_prefix", "")
    for name, default, sentence in _variables(prefix, settings, {}):
        lines.append(f"  {name} ({default})" if default else f"  {name} (required)")
        lines += textwrap.wrap(sentence, 90, initial_indent="      ", subsequent_indent="      ")
    return "\n".join([*lines, "", "Example:", textwrap.indent(example, "  "), ""])


def variable_names(settings: type[ServiceSettings]) -> set[str]:
    """Return the names of all variables that a service reads."""
    prefix = settings.model_config.get("env_prefix", "")
    return {name for name, _, _ in _variables(prefix, settings, {})}


def _variables(
    prefix: str, model: type[BaseModel], group: dict[str, object]
) -> Iterator[tuple[str, str, str]]:
    """Yield name, default and sentence of each variable; `group` holds a parent's defaults."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            inner = field.default.model_dump() if isinstance(field.default, BaseModel) else {}
            yield from _variables(f"{variable}__", nested, inner)
        else:
            yield variable, _default(field, group.get(name, field.default)), field.description or ""


def _default(field: FieldInfo, value: object) -> str:
    if field.is_required() or value is PydanticUndefined:
        return ""
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value, default=str)
