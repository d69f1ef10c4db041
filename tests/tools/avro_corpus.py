#!/usr/bin/env python3
"""Writes tests/corpus/fastavro.bin and fastavro.json: data of several schemas, encoded by fastavro, and what they are.

    avro_corpus.py          # needs fastavro; the result is the same each time

fastavro.bin holds, per datum: u32 little-endian length, datum. fastavro.json holds, per schema: the schema, the number of
data, and their values as JSON (bytes as latin-1 text, numbers as they are).
"""
import io
import json
import os
import random
import struct

from fastavro import parse_schema, schemaless_writer

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
R = random.Random(20)
TEXTS = ["", "a", "größe", "海岸", "\U0001d11e", "x" * 63, "y" * 64, "z" * 200]
LONGS = [0, -1, 63, 64, -64, -65, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63)]


def strip(node):
    """Without logical types: fastavro writes the underlying types."""
    if isinstance(node, dict):
        return {k: strip(v) for k, v in node.items() if k != "logicalType"}
    return [strip(v) for v in node] if isinstance(node, list) else node


def named(node, names):
    """The named types of a schema, by the last part of the name: no two share it here."""
    if isinstance(node, dict):
        if "name" in node and "type" in node and isinstance(node["type"], str) and node["type"] in ("record", "enum", "fixed"):
            names[node["name"]] = node
        for part in node.values():
            named(part, names)
    elif isinstance(node, list):
        for part in node:
            named(part, names)
    return names


def value(ty, names, depth):
    if isinstance(ty, list):
        plain = [t for t in ty if depth < 4 or t in ("null", "string", "int")] or ty[:1]
        chosen = R.choice(plain)
        return value(chosen, names, depth)
    if isinstance(ty, str):
        ty = names.get(ty.rsplit(".", 1)[-1], ty)
    kind = ty["type"] if isinstance(ty, dict) else ty
    if isinstance(kind, (dict, list)):
        return value(kind, names, depth)
    if kind == "record":
        return {f["name"]: value(f["type"], names, depth + 1) for f in ty["fields"]}
    if kind == "array":
        return [value(ty["items"], names, depth + 1) for _ in range(R.choice((0, 0, 1, 2, 7)))]
    if kind == "map":
        return {"k%d" % i: value(ty["values"], names, depth + 1) for i in range(R.choice((0, 1, 3)))}
    if kind == "enum":
        return R.choice(ty["symbols"])
    if kind == "fixed":
        return R.randbytes(ty["size"])
    return {"null": lambda: None, "boolean": lambda: R.random() < 0.5, "int": lambda: R.choice([n for n in LONGS if -2**31 <= n < 2**31]),
            "long": lambda: R.choice(LONGS), "float": lambda: R.randint(-99, 99) / 4, "double": lambda: R.randint(-9999, 9999) / 64,
            "bytes": lambda: R.randbytes(R.choice((0, 1, 70))), "string": lambda: R.choice(TEXTS[:-1]) if R.random() < 0.99 else TEXTS[-1]}[kind]()


def shown(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {k: shown(v) for k, v in value.items()}
    return [shown(v) for v in value] if isinstance(value, list) else value


def record(*fields):
    return {"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in fields]}


SCHEMAS = [
    (strip(json.load(open(os.path.join(TESTS, "schemas", "event.avsc")))), 30),
    (record(("a", ["null", "int"]), ("b", ["long", "null"]), ("c", ["null", "string"]), ("d", ["bytes", "null"]), ("e", ["null", "double"]),
            ("f", ["null", {"type": "enum", "name": "E", "symbols": ["X", "Y"]}]), ("g", ["null", {"type": "fixed", "name": "F", "size": 5}])), 80),
    (record(("i", {"type": "array", "items": "int"}), ("l", {"type": "array", "items": "long"}), ("s", {"type": "array", "items": "string"}),
            ("d", {"type": "array", "items": "double"}), ("n", {"type": "map", "values": {"type": "array", "items": "bytes"}})), 40),
    (record(("v", "int"), ("next", ["null", "R"])), 50),
    ({"type": "map", "values": ["null", "string", "boolean"]}, 50),
]


def main():
    data, entries = b"", []
    for schema, count in SCHEMAS:
        parsed, values, names = parse_schema(json.loads(json.dumps(schema))), [], named(schema, {})
        for _ in range(count):
            made = value(schema, names, 0)
            out = io.BytesIO()
            schemaless_writer(out, parsed, made)
            data += struct.pack("<I", len(out.getvalue())) + out.getvalue()
            values.append(shown(made))
        entries.append({"schema": schema, "count": count, "values": values})
    os.makedirs(os.path.join(TESTS, "corpus"), exist_ok=True)
    with open(os.path.join(TESTS, "corpus", "fastavro.bin"), "wb") as f:
        f.write(data)
    with open(os.path.join(TESTS, "corpus", "fastavro.json"), "w") as f:
        json.dump(entries, f, ensure_ascii=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
