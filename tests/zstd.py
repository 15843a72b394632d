"""Zstandard of the standard library, or what brings it to a Python that is older than it."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor, compress
else:
    from backports.zstd import CompressionParameter, ZstdCompressor, compress

__all__ = ["CompressionParameter", "ZstdCompressor", "compress"]
