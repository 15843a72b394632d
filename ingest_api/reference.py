"""`/docs`: the OpenAPI document as a page to read, which loads nothing from elsewhere."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from html import escape
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:#8881;padding:.8rem;overflow:auto}
h2{margin-top:3rem;border-top:1px solid #8884;padding-top:1rem}
table{border-collapse:collapse}td{vertical-align:top;padding:.2rem 1rem .2rem 0}
:root{color-scheme:light dark}
""".strip()

_LIST_LENGTH_MAX: Final = 40


def reference_routes(schema: Callable[[], Mapping[str, Any]]) -> APIRouter:
    """Return the route of the page about what `schema` returns."""
    router = APIRouter(include_in_schema=False)

    @cache
    def page() -> str:
        return "\n".join(_page(schema()))

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(page())

    return router


def _page(schema: Mapping[str, Any]) -> Iterator[str]:
    title = escape(schema["info"]["title"])
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
    yield f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
    yield f"<h1>{title} {escape(schema['info']['version'])}</h1>"
    yield _prose(schema["info"]["description"])
    yield "<p>For programs: <a href=/openapi.json>openapi.json</a>.</p>"
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            yield from _operation(f"{method.upper()} {path}", operation, schema)
    for name, model in schema["components"]["schemas"].items():
        yield f"<h2 id='{escape(name)}'>{escape(name)}</h2>{_prose(model.get('description', ''))}"
        yield f"<pre>{escape(json.dumps(_shortened(model), indent=2, ensure_ascii=False))}</pre>"


def _shortened(value: Any) -> Any:
    """Cut long lists, such as that of all time zones."""
    match value:
        case dict():
            return {name: _shortened(each) for name, each in value.items()}
        case list() if len(value) > _LIST_LENGTH_MAX:
            return [*value[:3], f"… {len(value) - 3} more"]
        case list():
            return [_shortened(each) for each in value]
        case _:
            return value


def _operation(name: str, operation: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{escape(name)}</code></h2>"
    yield _prose(operation.get("description") or operation.get("summary", ""))
    yield from _table(
        "Parameters",
        (
            (f"<code>{escape(each['name'])}</code>, {each['in']}", each.get("description", ""))
            for each in operation.get("parameters", ())
        ),
    )
    for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body, {escape(content_type)}</h3>{_link(content['schema'])}"
        if example := _example(content, schema):
            yield f"<pre>{escape(example)}</pre>"
    yield from _table(
        "Answers",
        (
            (f"<code>{status}</code>", answer.get("description", ""))
            for status, answer in sorted(operation["responses"].items())
        ),
    )


def _table(title: str, rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    cells = "".join(f"<tr><td>{name}<td>{_inline(text)}" for name, text in rows)
    if cells:
        yield f"<h3>{title}</h3><table>{cells}</table>"


def _example(content: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "x-example" in content:
        return str(content["x-example"])
    name = content["schema"].get("$ref", "").rpartition("/")[2]
    examples = schema["components"]["schemas"].get(name, {}).get("examples", ())
    return json.dumps(examples[0], indent=2, ensure_ascii=False) if examples else ""


def _link(schema: Mapping[str, Any]) -> str:
    name = escape(schema.get("$ref", "").rpartition("/")[2])
    return f"<p><a href='#{name}'>{name}</a></p>" if name else ""


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    """Escape, and set what stands between back-ticks or double asterisks."""
    for mark, tag in (("`", "code"), ("**", "b")):
        pieces = (escape(text) if mark == "`" else text).split(mark)
        text = "".join(
            f"<{tag}>{piece}</{tag}>" if number % 2 else piece
            for number, piece in enumerate(pieces)
        )
    return text
