"""Dates and times in Arrow and Parquet whose stored integer is DuckDB's infinity.

A result's Parquet has such values on purpose, and says so; in other files they are points in time.
"""

from typing import Any, Final

INFINITY_KEY: Final = b"ipfs_cluster_node.infinity"
INFINITY_METADATA: Final = {INFINITY_KEY: b"largest and smallest date or time"}
"""Metadata of a Parquet file whose extreme dates and times are infinities."""


def has_dates(kind: Any) -> bool:
    """Whether values of the Arrow type are or contain dates or times that may be infinite."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind) or pa.types.is_date32(kind):
        return True
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return has_dates(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return has_dates(kind.storage_type)
    return any(has_dates(kind.field(n).type) for n in range(kind.num_fields))


def reads_as_infinity(column: Any) -> bool:
    """Whether DuckDB would read a value of the Arrow array as infinity."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if not has_dates(kind):
        return False
    if pa.types.is_timestamp(kind) or pa.types.is_date32(kind):
        bits = pa.int32() if pa.types.is_date32(kind) else pa.int64()
        largest = 2 ** (bits.bit_width - 1) - 1
        found = pc.min_max(column.cast(bits))
        low, high = found["min"].as_py(), found["max"].as_py()
        return low is not None and (low <= -largest or high == largest)
    if pa.types.is_dictionary(kind):
        return reads_as_infinity(column.dictionary)
    if pa.types.is_run_end_encoded(kind):
        return reads_as_infinity(column.values)
    if isinstance(kind, pa.BaseExtensionType):
        return reads_as_infinity(column.storage)
    if pa.types.is_struct(kind):
        return any(map(reads_as_infinity, column.flatten()))
    if pa.types.is_map(kind):
        return reads_as_infinity(column.keys) or reads_as_infinity(column.items)
    return reads_as_infinity(column.flatten())
