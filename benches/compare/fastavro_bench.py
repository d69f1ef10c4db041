"""fastavro: decodes each record, adds the new fields, encodes it again. See run.

usage: fastavro_bench.py DATA_FOLDER SCHEMAS_FOLDER OUT_FOLDER
"""

import io
import json
import os
import struct
import sys
import time

import fastavro
from fastavro import parse_schema, schemaless_reader, schemaless_writer

RECORDS, ROUNDS = 2000, 7


def load(folder, name):
    with open(os.path.join(folder, name)) as file:
        return parse_schema(json.load(file))


def read(path):
    data = []
    with open(path, "rb") as file:
        while head := file.read(4):
            data.append(file.read(struct.unpack("<I", head)[0]))
    return data


def found(number):
    """What a look-up would have found: as in the Avro bench."""
    segment = ("gold", "new-customer", "bargain-hunter")[number % 3] if number % 4 else None
    return segment, number * 0.5 if number % 5 else None, "FR"


def events(number, record):
    record["segment"], record["user_score"], record["country"] = found(number)
    record["processed_at"] = record["ts"] * 1000


def flats(number, record):
    record["segment"] = found(number)[0]
    record["processed_at"] = record["ts"] * 1000


def main():
    data_folder, schemas, out_folder = sys.argv[1:]
    result = {"stack": f"Python {sys.version.split()[0]}, fastavro {fastavro.__version__}"}
    kinds = [("rich", "events", events, "event.avsc", "event_enriched.avsc"), ("flat", "flats", flats, "flat.avsc", "flat_enriched.avsc")]
    for kind, name, enrich, before, after in kinds:
        reader, writer = load(schemas, before), load(schemas, after)
        data = read(os.path.join(data_folder, name + ".bin"))[:RECORDS]
        decode_times, all_times, made = [], [], []
        for _ in range(ROUNDS):
            start = time.process_time_ns()
            for datum in data:
                schemaless_reader(io.BytesIO(datum), reader, None)
            decoded = time.process_time_ns()
            made = []
            for number, datum in enumerate(data):
                record = schemaless_reader(io.BytesIO(datum), reader, None)
                enrich(number, record)
                out = io.BytesIO()
                schemaless_writer(out, writer, record)
                made.append(out.getvalue())
            done = time.process_time_ns()
            decode_times.append(decoded - start)
            all_times.append(done - decoded)
        with open(os.path.join(out_folder, f"fastavro-{name}.out"), "wb") as file:
            file.write(b"".join(made))
        result[kind] = {"decode": min(decode_times) / len(data), "enrich": min(all_times) / len(data)}
    print(json.dumps(result))


main()
