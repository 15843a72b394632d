"""Path parameters that several routes have."""

from typing import Annotated

from fastapi import Path

AppId = Annotated[
    str,
    Path(
        description="The app, a UUID. Anything else is answered 422.",
        examples=["d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"],
        json_schema_extra={"format": "uuid"},
    ),
]
SubscriptionId = Annotated[
    str,
    Path(
        description="The subscription, a UUID. Anything else is answered 422.",
        examples=["1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680"],
        json_schema_extra={"format": "uuid"},
    ),
]
