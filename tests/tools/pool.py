"""Many distinct records from few encodings: a pool of records, encoded once by fastavro, in which only the id is replaced, byte for byte.

Record number i of a pipeline is pool entry i modulo the pool's size, with an id that ends in i. So the expected set follows from the seed and
the count alone, and the verifier needs not read what was sent.
"""

import bisect
import io
import itertools
import json

from fastavro import parse_schema, schemaless_reader, schemaless_writer

import generate
import pipelines
import profiles
from schema import strip

DIGITS = 12


def id_prefix(pipeline, seed):
    """The first 24 characters of each id; 12 hexadecimal digits follow. It is a valid version 4 UUID."""
    return f"{pipeline.tag | (seed & 0xFF):08x}-{(seed >> 8) & 0xFFFF:04x}-4e2e-8000-"


def parse(pipeline):
    """The pipeline's schema for fastavro, without logical types; the schemas that it references are parsed before it."""
    named = {}
    for _, file in pipeline.references:
        parse_schema(strip(json.loads((pipelines.SCHEMAS / f"{file}.avsc").read_text("utf-8"))), named_schemas=named)
    return parse_schema(strip(json.loads(pipeline.text())), named_schemas=named)


def encode(schema, record):
    out = io.BytesIO()
    schemaless_writer(out, schema, record)
    return out.getvalue()


def decode(schema, datum):
    """The record of a datum; a union's record comes as (name, record). Fails when bytes are left over."""
    source = io.BytesIO(datum)
    record = schemaless_reader(source, schema, None, return_record_name=True)
    if left := source.read():
        raise ValueError(f"{len(left)} trailing bytes")
    return record


class Pool:
    """The encoded records of one pipeline: `entries` are (user id, bytes before the id's last digits, bytes behind them)."""

    def __init__(self, pipeline, options):
        self.pipeline, self.prefix = pipeline, id_prefix(pipeline, options.seed)
        self.schema = parse(pipeline)
        named = [json.loads((pipelines.SCHEMAS / f"{file}.avsc").read_text("utf-8")) for _, file in pipeline.references]
        weights = list(itertools.accumulate(1 / rank**1.1 for rank in range(1, pipelines.USERS + 1)))

        def user(random):
            return profiles.user_id(bisect.bisect(weights, random.random() * weights[-1]) + 1)

        self.generator = generate.Generator(
            json.loads(pipeline.text()),
            options.seed * 1000 + pipeline.tag,
            named,
            {pipeline.id: lambda _: self.prefix + "0" * DIGITS, pipeline.user: user, "campaign.id": lambda r: r.randint(1, 500)},
        )
        self.entries = [self._entry(self.generator.record()) for _ in range(options.pool)]

    def _entry(self, record):
        datum = encode(self.schema, record)
        cut = datum.index(self.prefix.encode()) + len(self.prefix)
        return pipelines.at(record, self.pipeline.user), datum[:cut], datum[cut + DIGITS :]

    def user(self, number):
        return self.entries[number % len(self.entries)][0]

    def datum(self, number):
        """The Avro datum of record `number`, without framing."""
        _, head, tail = self.entries[number % len(self.entries)]
        return b"%b%012x%b" % (head, number, tail)

    def large(self, number, size):
        """A valid datum of more than `size` bytes, of a user who has no profile and no other record."""
        record = self.generator.record()
        *way, last = self.pipeline.user.split(".")
        (pipelines.at(record, ".".join(way)) if way else record)[last] = profiles.user_id(9_999_999)
        match self.pipeline.name:
            case "navigation":
                record["payload"] = b"\0" * size
            case "orders":
                record["notes"] = {"large": "x" * size}
            case _:
                record["raw"] = b"\0" * size
        datum = encode(self.schema, record)
        return datum.replace((self.prefix + "0" * DIGITS).encode(), f"{self.prefix}{number:012x}".encode(), 1)
