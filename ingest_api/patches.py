"""From a body to what Kafka keeps: validate, say exactly what is wrong, encode."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from ingest_api.idempotency import once
from ingest_api.problems import INVALID, NOT_JSON, FieldError, ProblemError
from ingest_api.schemas import UPDATE_BYTES_MAX, Batch, Patch
from shared.updates import COUNTERS, NOTHING, Update, encode

ERRORS_PER_UPDATE_MAX: Final = 20
ERRORS_PER_PROBLEM_MAX: Final = 100

_POINTER_TOKEN_LENGTH_MAX: Final = 256
_FRAGMENT_SAFE: Final = "!$&'()*+,;=:@?"  # what RFC 3986 leaves unescaped beside the unreserved

_TAG_PREFIX: Final = "tags."
_is_uuid = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}").fullmatch
_validate_patch = TypeAdapter(Patch).validate_json
_validate_batch = TypeAdapter(Batch).validate_json


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """A batch as it can be published: the values of its good updates, and what became of the rest.

    `subscription_ids` and `places` tell for each value whose it is, and which update of the body.
    """

    values: list[bytes]
    subscription_ids: list[str]
    places: list[int]
    rejected: dict[int, list[FieldError]]


def canonical_id(name: str, text: str) -> str:
    """Return a path's ID in the one spelling that is stored.

    Raises:
        ProblemError: it is not a UUID.
    """
    if _is_uuid(text) is None:
        detail = "An ID is a UUID, such as 1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680."
        raise ProblemError(INVALID, detail, [{"parameter": name, "detail": detail}])
    return text.lower()


def read_patch(app_id: str, subscription_id: str, body: bytes, key: bytes | None = None) -> bytes:
    """Return the record value of a request to change one subscription.

    With an idempotency key, it has its effect once.

    Raises:
        ProblemError: the body is not JSON, or breaks a rule; every broken one is listed.
    """
    try:
        patch = _validate_patch(body)
    except ValidationError as error:
        raise _invalid(_described(_details_of(error), update_at=0)) from None
    update = _update(app_id, subscription_id, patch)
    value = encode(update if key is None else once(key, update))
    if fault := _fault_of(patch, value):
        raise _invalid([{"pointer": "#", "detail": fault}])
    return value


def read_batch(app_id: str, body: bytes, *, partial: bool, key: bytes | None = None) -> ReadBatch:
    """Return the record values of a batch, in its order.

    With an idempotency key, the update at each place has its effect once.

    Raises:
        ProblemError: the body is not JSON, not a batch, or has no good update. Unless `partial`,
            also where one of its updates breaks a rule.
    """
    rejected: dict[int, list[FieldError]] = {}
    try:
        updates = _validate_batch(body)["updates"]
        places = list(range(len(updates)))
    except ValidationError as error:
        rejected = _by_update(_details_of(error))
        raw = from_json(body)["updates"]
        places = [place for place in range(len(raw)) if place not in rejected]
        # Through JSON again, because strict validation of what was parsed would be another one.
        good = to_json({"updates": [raw[place] for place in places]})
        updates = _validate_batch(good)["updates"] if places else []

    built = [_update(app_id, each["subscription_id"], each) for each in updates]
    if key is not None:
        built = [once(key, each, place) for each, place in zip(built, places, strict=True)]
    values = [encode(each) for each in built]
    faults = [_fault_of(patch, value) for patch, value in zip(updates, values, strict=True)]
    if any(faults):
        for place, fault in zip(places, faults, strict=True):
            if fault:
                rejected[place] = [{"pointer": f"#/updates/{place}", "detail": fault}]
        values = [value for value, fault in zip(values, faults, strict=True) if not fault]
        places = [place for place, fault in zip(places, faults, strict=True) if not fault]
        updates = [each for each, fault in zip(updates, faults, strict=True) if not fault]

    if rejected and not (partial and values):
        raise _invalid([error for place in sorted(rejected) for error in rejected[place]])
    return ReadBatch(values, [each["subscription_id"] for each in updates], places, rejected)


def _update(app_id: str, subscription_id: str, patch: Patch) -> Update:
    tags = patch.get("tags") or NOTHING
    if "" in tags.values():
        tags = {name: None if value == "" else value for name, value in tags.items()}
    counters = increment_tags = NOTHING
    if increment := patch.get("increment"):
        counters = {name: increment[name] for name in COUNTERS if name in increment}
        increment_tags = {
            name.removeprefix(_TAG_PREFIX): amount
            for name, amount in increment.items()
            if name.startswith(_TAG_PREFIX)
        }
    return Update(
        schema=1,
        app_id=app_id,
        subscription_id=subscription_id,
        tags=tags,
        properties=patch.get("properties") or NOTHING,  # type: ignore[arg-type]  # scalars all
        increment=counters or NOTHING,
        increment_tags=increment_tags or NOTHING,
    )


def _fault_of(patch: Patch, value: bytes) -> str | None:
    """Say what is wrong with an update whose every field is right."""
    if not (patch.get("tags") or patch.get("properties") or patch.get("increment")):
        return "An update changes something: give tags, properties or increment."
    if len(value) > UPDATE_BYTES_MAX:
        return f"An update may have {UPDATE_BYTES_MAX:,} bytes as it is stored."
    return None


def _details_of(error: ValidationError) -> list[ErrorDetails]:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        raise ProblemError(NOT_JSON, f"{details[0]['msg']}.") from None
    return details


def _by_update(details: list[ErrorDetails]) -> dict[int, list[FieldError]]:
    """Group errors by the update they are about; one about the batch itself ends the request."""
    grouped: dict[int, list[ErrorDetails]] = {}
    for detail in details:
        match detail["loc"]:
            case ("updates", int(place), *_):
                grouped.setdefault(place, []).append(detail)
            case _:
                raise _invalid(_described(details, update_at=2))
    return {place: _described(grouped[place], update_at=2) for place in grouped}


def _described(details: Iterable[ErrorDetails], *, update_at: int) -> list[FieldError]:
    """Return what the client reads; `update_at` is how deep in the body an update begins."""
    # An update is two levels deep. What pydantic puts below names its own schema, not data.
    deepest = update_at + 2
    return [
        {"pointer": _pointer(detail["loc"][:deepest]), "detail": _sentence(detail)}
        for detail in itertools.islice(details, ERRORS_PER_UPDATE_MAX)
    ]


def _pointer(location: tuple[int | str, ...]) -> str:
    pointer = "#"
    for part in location:
        token = str(part).replace("~", "~0").replace("/", "~1")
        if len(token) > _POINTER_TOKEN_LENGTH_MAX:
            break  # a name that long is the error; pointing at its parent spares the echo
        pointer += "/" + quote(token, safe=_FRAGMENT_SAFE)
    return pointer


def _sentence(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "invalid":  # ours already
            return detail["msg"]
        case "extra_forbidden":
            return "There is no such field."
        case "missing":
            return "It is required."
        case "too_short":
            return "It is empty; give one at least."
        case _:
            return f"{detail['msg']}."


def _invalid(errors: list[FieldError]) -> ProblemError:
    count = len(errors)
    detail = errors[0]["detail"] if count == 1 else f"{count} things are wrong with it."
    return ProblemError(INVALID, detail, errors[:ERRORS_PER_PROBLEM_MAX])
