"""Numbers and durations as people read them."""

from math import isinf
from typing import Final

_UNITS: Final = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


def duration(seconds: float) -> str:
    """Return `350 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `never` for infinity."""
    if isinf(seconds):
        return "never"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "0 s"  # noqa: PLR2004
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, part, part_name in _UNITS:
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{whole} s"


def amount(count: float) -> str:
    """Return `1,234`, and one decimal below ten where there is one."""
    if 0 < count < 10 and count != int(count):  # noqa: PLR2004
        return f"{count:.1f}"
    return f"{count:,.0f}"


def app_ids(first_partition: int, last_partition: int, partitions: int) -> str:
    """Return with which characters the IDs of the apps in these partitions begin: `0 to 3`.

    Partition `p` of 720 has the IDs whose first 16 bits are in [65536 p/720, 65536 (p+1)/720).
    """
    low = -(-first_partition * 65_536 // partitions)
    high = -(-(last_partition + 1) * 65_536 // partitions) - 1
    digits = 1 if low % 4_096 == 0 and (high + 1) % 4_096 == 0 else 4
    first, last = (f"{each:04x}"[:digits] for each in (low, high))
    return first if first == last else f"{first} to {last}"
