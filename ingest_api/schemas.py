"""What requests and answers hold: their shapes and limits, for checking and for OpenAPI alike.

Bodies are typed dictionaries: what comes out of validation holds what was sent and nothing else,
so that absent and `null` stay apart, and it costs a microsecond per update.
"""

import functools
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
    WithJsonSchema,
    with_config,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict

from ingest_api.problems import ErrorDocument, Problem

UPDATES_PER_BATCH_MAX: Final = 1_000
ENTRIES_MAX: Final = 200
TAG_NAME_LENGTH_MAX: Final = 128
TAG_VALUE_LENGTH_MAX: Final = 1_024
PROPERTY_LENGTH_MAX: Final = 128
UPDATE_BYTES_MAX: Final = 256 * 1024
"""Bytes of one update as it is stored in Kafka: bounds what everyone after us has to hold."""

NUMBER_MAX: Final = 2**53 - 1
"""What every reader of JSON keeps exactly."""
INCREMENT_MAX: Final = 2**31 - 1

_WITHOUT_NUL: Final = r"^[^\x00]*$"  # Postgres keeps no NUL in text or jsonb
_UUID: Final = r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"
_TIMESTAMP: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})$"
)


@dataclass(frozen=True, slots=True)
class _Otherwise:
    """Answers one sentence for whatever is wrong with a value, instead of pydantic's several."""

    sentence: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="invalid", custom_error_message=self.sentence
        )


@dataclass(frozen=True, slots=True)
class _OrWritten1Point0:
    """Takes a whole number however it is written: 1.0 is an integer to JSON Schema, too."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        number = core_schema.float_schema(strict=True, ge=-INCREMENT_MAX, le=INCREMENT_MAX)
        whole = core_schema.no_info_after_validator_function(_whole, number)
        return core_schema.union_schema([handler(source), whole])


def _whole(number: float) -> int:
    if not number.is_integer():
        raise ValueError
    return int(number)


@functools.cache
def time_zones() -> frozenset[str]:
    """The IANA time zones that this system knows."""
    return frozenset(zoneinfo.available_timezones())


def _only_known_time_zones(schema: dict[str, Any]) -> None:
    """Say for readers of the schema what is checked."""
    schema["anyOf"][0] = {"type": "string", "enum": sorted(time_zones())}


def _an_instant(schema: dict[str, Any]) -> None:
    """Say for readers of the schema that it is a time that there is."""
    schema["anyOf"][0]["format"] = "date-time"


def _known_time_zone(name: str) -> str:
    if name not in time_zones():
        raise ValueError
    return name


def _in_utc(timestamp: str) -> str:
    """Return the one form in which an instant is stored: whole seconds of UTC."""
    try:
        instant = datetime.fromisoformat(timestamp).astimezone(UTC)
    except OverflowError as error:  # the year 1 or 9999, on the other side of midnight in UTC
        raise ValueError from error
    return instant.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


SubscriptionId = Annotated[
    str,
    StringConstraints(pattern=_UUID, to_lower=True),
    _Otherwise("An ID is a UUID, such as 1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680."),
    Field(
        description="The subscription, a UUID.",
        json_schema_extra={"format": "uuid"},
        examples=["1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680"],
    ),
]

TagName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=TAG_NAME_LENGTH_MAX, pattern=_WITHOUT_NUL),
    _Otherwise(f"A tag's name has 1 to {TAG_NAME_LENGTH_MAX} characters, none of them NUL."),
]
_Number = Field(ge=-NUMBER_MAX, le=NUMBER_MAX)
TagValue = Annotated[
    Annotated[str, StringConstraints(max_length=TAG_VALUE_LENGTH_MAX, pattern=_WITHOUT_NUL)]
    | bool
    | Annotated[int, _Number]
    | Annotated[float, _Number]
    | None,
    _Otherwise(
        f"A tag is a string of up to {TAG_VALUE_LENGTH_MAX:,} characters without NUL, a boolean, "
        "a number within ±(2^53 - 1), or null to unset it."
    ),
]
IncrementName = Annotated[
    str,
    StringConstraints(
        pattern=rf"^(session_count|session_time_s|tags\.[^\x00]{{1,{TAG_NAME_LENGTH_MAX}}})$"
    ),
    _Otherwise(
        "Only session_count, session_time_s and tags.<name> can be incremented; a tag's name has "
        f"1 to {TAG_NAME_LENGTH_MAX} characters, none of them NUL."
    ),
]
IncrementAmount = Annotated[
    int,
    Field(ge=-INCREMENT_MAX, le=INCREMENT_MAX),
    _OrWritten1Point0(),
    _Otherwise("An increment is a whole number within ±(2^31 - 1)."),
    WithJsonSchema({"type": "integer", "minimum": -INCREMENT_MAX, "maximum": INCREMENT_MAX}),
]

_STRICT: Final = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

_Text = Annotated[
    str | None,
    Field(min_length=1, max_length=PROPERTY_LENGTH_MAX, pattern=_WITHOUT_NUL),
    _Otherwise(f"It has 1 to {PROPERTY_LENGTH_MAX} characters, none of them NUL; null unsets it."),
]

DeviceType = Literal[
    "iOSPush",
    "AndroidPush",
    "HuaweiPush",
    "FireOSPush",
    "WindowsPush",
    "macOSPush",
    "ChromePush",
    "ChromeExtensionPush",
    "FirefoxPush",
    "SafariPush",
    "SafariLegacyPush",
    "Email",
    "SMS",
]


@with_config(_STRICT)
class Properties(TypedDict, total=False):
    """What is known of every subscription. `null` unsets."""

    language: Annotated[
        str | None,
        Field(max_length=35, pattern=r"^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$"),
        _Otherwise("A language is a BCP 47 tag, such as en or zh-Hant; null unsets it."),
        Field(description="BCP 47 language tag.", examples=["en", "zh-Hant"]),
    ]
    timezone_id: Annotated[
        Annotated[str, Field(max_length=64), AfterValidator(_known_time_zone)] | None,
        _Otherwise("A time zone is an IANA name, such as Europe/Berlin; null unsets it."),
        Field(
            description="IANA time zone, of those the server knows.",
            examples=["Europe/Berlin"],
            json_schema_extra=_only_known_time_zones,
        ),
    ]
    country: Annotated[
        Annotated[str, StringConstraints(pattern="^[a-zA-Z]{2}$", to_upper=True)] | None,
        _Otherwise("A country is two letters of ISO 3166-1, such as DE; null unsets it."),
        Field(description="ISO 3166-1 alpha-2, kept in upper case.", examples=["DE"]),
    ]
    device_type: Annotated[
        DeviceType | None,
        _Otherwise("It is one of the types that the API lists; null unsets it."),
        Field(description="How the subscription is reached.", examples=["iOSPush"]),
    ]
    device_model: Annotated[_Text, Field(description="Model.", examples=["iPhone17,1"])]
    device_os: Annotated[_Text, Field(description="System and version.", examples=["18.4"])]
    app_version: Annotated[_Text, Field(description="Version of your app.", examples=["4.2.0"])]
    sdk_version: Annotated[_Text, Field(description="Version of the SDK.", examples=["050301"])]
    enabled: Annotated[
        bool | None,
        _Otherwise("It is true or false; null unsets it."),
        Field(description="Whether it may be sent to."),
    ]
    last_active: Annotated[
        Annotated[str, StringConstraints(pattern=_TIMESTAMP), AfterValidator(_in_utc)] | None,
        _Otherwise(
            "A time is RFC 3339 with an offset, such as 2026-11-20T09:30:00Z; null unsets it."
        ),
        Field(
            description="When it was last used, RFC 3339; kept in UTC, in whole seconds.",
            examples=["2026-11-20T09:30:00Z"],
            json_schema_extra=_an_instant,
        ),
    ]


# Says for readers of the schema what `patches.py` checks: something must change.
_CHANGES_SOMETHING: Final[dict[str, Any]] = {
    "anyOf": [
        {"required": [name], "properties": {name: {"minProperties": 1}}}
        for name in ("tags", "properties", "increment")
    ]
}
_PATCH_EXAMPLE: Final[dict[str, Any]] = {
    "tags": {"plan": "pro", "level": 12, "trial": None},
    "properties": {"language": "en", "last_active": "2026-11-20T09:30:00Z"},
    "increment": {"session_count": 1, "tags.purchases": 2},
}
BATCH_EXAMPLE: Final[dict[str, Any]] = {
    "updates": [
        {
            "subscription_id": "1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680",
            "tags": {"plan": "pro", "trial": None},
        },
        {
            "subscription_id": "c0a8f2d4-63b1-4f0e-8a57-2e9d4b6c1f35",
            "increment": {"session_count": 1},
        },
    ]
}


@with_config(
    ConfigDict(**_STRICT, json_schema_extra={**_CHANGES_SOMETHING, "examples": [_PATCH_EXAMPLE]})
)
class Patch(TypedDict, total=False):
    """A change to one subscription. What is not mentioned stays as it is."""

    tags: Annotated[
        dict[TagName, TagValue],
        Field(
            max_length=ENTRIES_MAX,
            description='Tags to set; `null` or `""` unsets. Of one name given twice the last '
            "counts.",
            json_schema_extra={"additionalProperties": False},
        ),
    ]
    properties: Properties
    increment: Annotated[
        dict[IncrementName, IncrementAmount],
        Field(
            max_length=ENTRIES_MAX,
            description="Integers to add, after tags are set: to `session_count`, "
            "`session_time_s`, or a tag as `tags.<name>`. What is missing or not a number starts "
            "from 0.",
            json_schema_extra={"additionalProperties": False},
        ),
    ]


@with_config(ConfigDict(**_STRICT, json_schema_extra=_CHANGES_SOMETHING))
class BatchItem(Patch):
    """A change to one subscription of a batch."""

    subscription_id: SubscriptionId


@with_config(ConfigDict(**_STRICT, json_schema_extra={"examples": [BATCH_EXAMPLE]}))
class Batch(TypedDict):
    """Changes to subscriptions of one app, applied in the order given."""

    updates: Annotated[list[BatchItem], Field(min_length=1, max_length=UPDATES_PER_BATCH_MAX)]


class Accepted(BaseModel):
    """The update is stored, and will be applied."""

    receipt: str = Field(
        description="Where it is stored: topic epoch, partition and offset. Of two updates of one "
        "app the one with the lower offset is applied first.",
        examples=["0.417.20931"],
    )


class BatchResult(BaseModel):
    """What became of one update of a batch: exactly one of these."""

    receipt: str | None = Field(None, description="It is stored.", examples=["0.417.20931"])
    errors: list[ErrorDocument] | None = Field(None, description="It was not accepted, and why.")
    outcome: Literal["unknown", "not_accepted"] | None = Field(
        None, description="It may have been stored, or was not, for no fault of its own."
    )


class BatchAccepted(BaseModel):
    """What became of a batch, in the order of its updates."""

    accepted: int = Field(description="Updates with a receipt.")
    rejected: int = Field(description="Updates without one.")
    results: list[BatchResult]


class BatchProblem(Problem):
    """What went wrong with a batch, and what became of each of its updates."""

    accepted: int | None = Field(None, description="Updates with a receipt.")
    rejected: int | None = Field(None, description="Updates without one.")
    results: list[BatchResult] | None = Field(
        None, description="In the order of the updates, where any of them was sent."
    )
