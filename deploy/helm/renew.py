"""Renew what is generated of the chart: schema, table of values, golden renders, their objects."""

import json
import sys
from pathlib import Path

from deploy.helm.renders import (
    GOLDEN,
    OPERATIONS,
    golden,
    operations_page,
    render,
    with_section,
)
from deploy.helm.tools import find_tool
from deploy.helm.values import CHART, VALUE_SETS, read_values, schema, table
from shared.errors import Misconfigured


def generated() -> dict[Path, str]:
    """Return each file that is made from values.yaml, as it should be."""
    values = read_values((CHART / "values.yaml").read_text("utf-8"))
    readme = CHART / "README.md"
    return {
        CHART / "values.schema.json": json.dumps(schema(values), indent=1) + "\n",
        readme: with_section(readme.read_text("utf-8"), "values", table(values)),
    }


def main() -> int:
    """Write all of it; golden renders only where Helm is."""
    for path, content in generated().items():
        path.write_text(content, "utf-8")
    try:
        helm = find_tool("helm")
    except Misconfigured as error:
        print(f"· the golden renders are as they were: {error}")
        return 0
    for value_set in sorted(VALUE_SETS.glob("*.yaml")):
        (GOLDEN / value_set.name).write_text(golden(render(helm, value_set)), "utf-8")
    OPERATIONS.write_text(operations_page(helm), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
