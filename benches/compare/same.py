"""Whether the outputs of the stacks are the same records, after decoding.

usage: same.py SCHEMAS_FOLDER OUT_FOLDER      # needs fastavro
"""

import glob
import io
import json
import os
import sys

from fastavro import parse_schema, schemaless_reader


def main():
    schemas, out = sys.argv[1:]
    for name, schema in (("events", "event_enriched.avsc"), ("flats", "flat_enriched.avsc")):
        with open(os.path.join(schemas, schema)) as file:
            reader = parse_schema(json.load(file))
        found = {}
        for path in sorted(glob.glob(os.path.join(out, f"*-{name}.out"))):
            with open(path, "rb") as file:
                data = io.BytesIO(file.read())
            records = []
            while data.tell() < len(data.getbuffer()):
                records.append(schemaless_reader(data, reader, None))
            found[os.path.basename(path)] = records
        stacks = list(found)
        for other in stacks[1:]:
            if found[other] != found[stacks[0]]:
                sys.exit(f"{other} and {stacks[0]} are not the same records")
        print(f"{name}: {len(found[stacks[0]])} records are the same in {', '.join(stacks)}")


main()
