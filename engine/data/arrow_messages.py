"""What the messages of an Arrow stream say of themselves, before their content is touched.

Arrow unpacks a compressed batch while it reads it, whatever size that claims. Whether it would is
in a message's metadata: FlatBuffers tables of Arrow's `format/Message.fbs`, which Arrow checks.
"""

from pathlib import Path

import pyarrow as pa

# Numbers of Message.fbs: kinds of messages, a dictionary's rows and rows; fields of a message, of a
# dictionary's and of rows; and how Arrow's first versions named a compression.
DICTIONARY, ROWS = 2, 3
KIND, HEADER, ROWS_OF_DICTIONARY, COMPRESSION = 1, 2, 1, 3
OLD_COMPRESSION = b"ARROW:experimental_compression"


def is_compressed(path: Path) -> bool:
    """Whether a batch of a stream has to be unpacked to be read, to whatever size it claims."""
    try:
        with pa.memory_map(str(path)) as file:
            messages = pa.ipc.MessageReader.open_stream(file)
            return any(_compresses(message.metadata.to_pybytes()) for message in messages)
    except (OSError, ValueError, pa.ArrowException):
        # Who reads it says so, and where.
        return False


def _compresses(message: bytes) -> bool:
    start = _number(message, 0, 4)
    kind = _number(message, _field(message, start, KIND), 1)
    rows = _at(message, _field(message, start, HEADER))
    if kind == DICTIONARY:
        rows = _at(message, _field(message, rows, ROWS_OF_DICTIONARY))
    elif kind != ROWS:
        return False
    return bool(_field(message, rows, COMPRESSION)) or OLD_COMPRESSION in message


def _field(message: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table is, or 0."""
    fields = table - int.from_bytes(message[table : table + 4], "little", signed=True)
    place = 4 + 2 * number
    inside = _number(message, fields + place, 2) if place < _number(message, fields, 2) else 0
    return inside and table + inside


def _at(message: bytes, place: int) -> int:
    return place + _number(message, place, 4)


def _number(message: bytes, place: int, size: int) -> int:
    return int.from_bytes(message[place : place + size], "little")
