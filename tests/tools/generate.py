"""Random records of any Avro schema, seeded: every union branch, empty and long collections, extreme numbers and non-Latin text occur.

Values are those of the underlying Avro types (logical types are stripped from the schema), so what is written is what is compared.
NaN is left out, since it does not equal itself.
"""

import random
import struct

from schema import full_name, space_of

WORDS = (
    "anchor basin cove delta eddy fathom gale harbour inlet jetty keel lagoon mast narrows oar pilot quay reef sound tide undertow vessel "
    "wake yawl señal größe forêt Łódź 海峡 пролив"
).split()
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 16; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 Mobile Safari/537.36",
)
EPOCH_MS = 1_770_000_000_000
SPAN_MS = 86_400_000
LENGTHS = (0, 0, 1, 1, 1, 2, 2, 3, 4, 8)
EXTREMES = {"int": (-(2**31), 2**31 - 1, -1, 0), "long": (-(2**63), 2**63 - 1, -1, 0)}


class Generator:
    """Draws records of `schema`; `named` are types of other schemas; `fixed` maps a dotted path to a function of the random source."""

    def __init__(self, schema, seed, named=(), fixed=None):
        self.schema, self.fixed, self.named = schema, fixed or {}, {}
        self.random = random.Random(seed)
        for s in (*named, schema):
            self._name(s, "")

    def record(self):
        return self._draw(self.schema, "", "", 0)

    def _name(self, schema, space):
        """Collects the named types, under their full names."""
        if isinstance(schema, list):
            for s in schema:
                self._name(s, space)
        if not isinstance(schema, dict):
            return
        if "name" in schema and schema["type"] in ("record", "enum", "fixed"):
            space = space_of(schema, space)
            self.named[full_name(schema["name"], space)] = (schema, space)
        for field in schema.get("fields", ()):
            self._name(field["type"], space)
        for inner in ("items", "values"):
            self._name(schema.get(inner), space)

    def _draw(self, schema, path, space, depth):
        if path in self.fixed:
            return self.fixed[path](self.random)
        r = self.random
        if isinstance(schema, list):
            return self._branch(schema, path, space, depth)
        if isinstance(schema, str):
            if full := self.named.get(full_name(schema, space)) or self.named.get(schema):
                return self._draw(full[0], path, full[1], depth)
            return self._primitive(schema, path)
        kind = schema["type"]
        if kind == "record":
            space = space_of(schema, space)
            fields = schema["fields"]
            return {f["name"]: self._draw(f["type"], f"{path}.{f['name']}".lstrip("."), space, depth + 1) for f in fields}
        if kind == "array":
            return [self._draw(schema["items"], f"{path}[]", space, depth + 1) for _ in range(self._length(depth))]
        if kind == "map":
            keys = r.sample(WORDS, self._length(depth))
            return {k: self._draw(schema["values"], f"{path}{{}}", space, depth + 1) for k in keys}
        if kind == "enum":
            return r.choice(schema["symbols"])
        logical = schema.get("logicalType")
        if kind == "fixed":
            return self._decimal(schema, schema["size"]) if logical == "decimal" else r.randbytes(schema["size"])
        return self._logical(logical, schema, path) if logical else self._draw(kind, path, space, depth)

    def _branch(self, union, path, space, depth):
        """Any branch; the deeper, the likelier null, so that recursive types end. A named type is told by its full name."""
        if "null" in union and self.random.random() < (0.3 if depth < 6 else 0.9):
            return None
        branch = self.random.choice([b for b in union if b != "null"])
        value = self._draw(branch, path, space, depth)
        if not isinstance(value, dict):
            return value
        if isinstance(branch, str):
            known = full_name(branch, space)
            return (known if known in self.named else branch, value)
        return value if branch["type"] == "map" else (full_name(branch["name"], space_of(branch, space)), value)

    def _length(self, depth):
        return self.random.choice(LENGTHS) if depth < 6 else 0

    def _primitive(self, kind, path):
        r = self.random
        if kind in EXTREMES:
            return r.choice(EXTREMES[kind]) if r.random() < 0.05 else r.randrange(-1000, 1_000_000)
        if kind == "boolean":
            return r.random() < 0.5
        if kind == "float":
            return struct.unpack("<f", struct.pack("<f", r.uniform(-100, 100)))[0]
        if kind == "double":
            return r.choice((0.0, -0.0, 5e-324, float("inf"))) if r.random() < 0.02 else r.uniform(-1e6, 1e6)
        if kind == "bytes":
            return r.randbytes(r.choice((0, 4, 16, 16, 64)))
        if kind == "null":
            return None
        return r.choice(AGENTS) if path.endswith("agent") else self.phrase()

    def phrase(self):
        return " ".join(self.random.choices(WORDS, k=self.random.choice(LENGTHS)))

    def _decimal(self, schema, size=None):
        limit = 10 ** schema["precision"] - 1 if self.random.random() < 0.05 else 10**6
        value = self.random.randint(-limit, limit)
        return value.to_bytes(size or value.bit_length() // 8 + 1, "big", signed=True)

    def _logical(self, logical, schema, path):
        r = self.random
        moment = EPOCH_MS + r.randrange(SPAN_MS)
        match logical:
            case "decimal":
                return self._decimal(schema)
            case "timestamp-millis":
                return moment
            case "timestamp-micros":
                return moment * 1000 + r.randrange(1000)
            case "date":
                return moment // 86_400_000
            case "time-millis":
                return r.randrange(86_400_000)
            case "time-micros":
                return r.randrange(86_400_000_000)
            case _:
                return self._primitive(schema["type"], path)
