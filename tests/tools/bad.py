"""Records that no consumer can use as they are, one kind for each way to be wrong. A bad record's key says what it is: `bad-KIND-NUMBER`.

`large` and `tombstone` are not wrong in themselves: what becomes of them is the configuration's to say.
"""

UNKNOWN_SCHEMA = 0x7FFFFF00
LARGE = 10 * 1024 * 1024
APART = 0xFFFFFF000000
"""The numbers in the ids of bad records begin here, far above those of good ones."""

KINDS = ("text", "empty", "short", "wrong_magic", "unknown_schema", "garbage", "truncated", "trailing", "tombstone", "large")
DEAD = KINDS[:8]
"""Those that can never succeed."""


def key(kind, number):
    return f"bad-{kind}-{number}".encode()


def kind_of(record_key):
    """The kind in a bad record's key, or None."""
    if record_key is None or not record_key.startswith(b"bad-"):
        return None
    return record_key[4:].rpartition(b"-")[0].decode()


def value(kind, number, pool, frame):
    """The value of the bad record; `frame` is the magic byte and schema id of the topic."""
    number += APART
    datum = pool.datum(number)
    match kind:
        case "text":
            return b'{"this": "is JSON"}'
        case "empty":
            return b""
        case "short":
            return frame[:3]
        case "wrong_magic":
            return b"\x01" + frame[1:] + datum
        case "unknown_schema":
            return b"\0" + UNKNOWN_SCHEMA.to_bytes(4, "big") + datum
        case "garbage":
            return frame + b"\xff" * 64
        case "truncated":
            return frame + datum[: len(datum) // 2]
        case "trailing":
            return frame + datum + b"tail"
        case "tombstone":
            return None
        case "large":
            return frame + pool.large(number, LARGE)
        case _:
            raise ValueError(kind)
