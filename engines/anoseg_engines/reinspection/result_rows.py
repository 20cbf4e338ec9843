"""The rows of a result as Parquet: one file for each shard, with the same columns and types. Pure functions; needs pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from anoseg_engines.reinspection.image_inspection import Row

DEFECT = pa.struct([(name, pa.float64()) for name in ("x", "y", "width", "height", "area", "peak", "centroid_x", "centroid_y")])
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("part_id", pa.string()),
        pa.field("camera", pa.string()),
        pa.field("captured_at", pa.string()),
        pa.field("journal_id", pa.string()),
        pa.field("seq", pa.int64()),
        pa.field("earlier_outcome", pa.string()),
        pa.field("earlier_reason", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("error", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("pixel_threshold", pa.float64(), nullable=False),
        pa.field("defects", pa.list_(DEFECT), nullable=False),
        pa.field("bundle", pa.string(), nullable=False),
        pa.field("engine_digest", pa.string(), nullable=False),
        pa.field("runtime", pa.string(), nullable=False),
    ]
)
RECORD, SHARD = b"anoseg.reinspection", b"anoseg.shard"
"""The keys of a file's metadata under which it says to which run it belongs, and which shard of it it is."""


def shard_bytes(shard: int, rows: Sequence[Row], record: bytes) -> bytes:
    """Return the Parquet file of a shard.

    Args:
        shard: Its number.
        rows: Its rows, in their order.
        record: Says to which run the shard belongs.
    """
    plain: list[dict[str, Any]] = [msgspec.to_builtins(row) for row in rows]
    table = pa.Table.from_pylist(plain, schema=SCHEMA.with_metadata({RECORD: record, SHARD: str(shard).encode()}))
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return bytes(buffer.getvalue())
