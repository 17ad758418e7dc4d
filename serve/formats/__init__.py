"""Tables in, the same tables with predictions out, batch by batch.

The columns `prediction` and, for classes, `probability_CLASS` are put behind those that came; columns that the model
does not take pass through. Order is kept, and no more than a few batches are in memory.
"""

from __future__ import annotations

from serve.formats.arrow import scored_arrow, scored_parquet
from serve.formats.commas import scored_csv
from serve.protocols import BadInputError

CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
FORMATS = {CSV: scored_csv, ARROW: scored_arrow, PARQUET: scored_parquet}


def sniffed(start: bytes) -> str:
    """The type of a file by its first four bytes; what is neither Parquet nor Arrow is taken for CSV."""
    if start == b"ARRO":
        raise BadInputError("this is an Arrow IPC file; send the IPC stream format (pyarrow.ipc.new_stream)", 415)
    return {b"PAR1": PARQUET, b"\xff\xff\xff\xff": ARROW}.get(start, CSV)
