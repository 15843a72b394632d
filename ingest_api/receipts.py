"""Receipts: what an accepted update is asked for by."""


def receipt(epoch: int, partition: int, offset: int) -> str:
    """Return the receipt of the update at a position."""
    return f"{epoch}.{partition}.{offset}"
