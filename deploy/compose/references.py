"""Writes the documents of the references of config/processors.toml: campaigns, and three quarters of the partners that the generator uses.

Keeps existing documents. Prints one JSON line.
"""

import argparse
import os

from pymongo import MongoClient, UpdateOne

import pipelines
from pool import DIGITS, Pool, decode

CAMPAIGNS = 400  # reactions name ids up to 500


def partners(options):
    """The ids of partners in the generator's navigation events."""
    pool = Pool(pipelines.PIPELINES[0], options)
    return sorted({decode(pool.schema, head + b"0" * DIGITS + tail)["partner_id"] for _, head, tail in pool.entries})


def write(collection, documents):
    collection.bulk_write([UpdateOne({"_id": d["_id"]}, {"$setOnInsert": d}, upsert=True) for d in documents], ordered=False)
    return len(documents)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    # As in produce.py: the same seed and size give the same records.
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pool", type=int, default=pipelines.POOL)
    parser.add_argument("--database", default="crm")
    options = parser.parse_args()
    database = MongoClient(os.environ["MONGO_URI"])[options.database]
    known = [id for number, id in enumerate(partners(options)) if number % 4]
    pipelines.report(
        {
            "partners": write(
                database.partners, [{"_id": id, "name": f"Partner {n}", "country": "FR", "vat": f"FR{n:011d}"} for n, id in enumerate(known)]
            ),
            "campaigns": write(
                database.campaigns,
                [{"_id": n, "title": f"Campaign {n}", "budget": n * 1.5, "tags": ["a", f"t{n % 7}"]} for n in range(1, CAMPAIGNS + 1)],
            ),
        }
    )


if __name__ == "__main__":
    main()
