"""The three pipelines of tests/e2e/three.toml as the test tools know them: names, paths, tables, and where the services are.

Everything that the generator, the loader and the verifier must agree on is said here, once.
"""

import argparse
import dataclasses
import json
import os
import pathlib
from decimal import Decimal

SCHEMAS = pathlib.Path(__file__).resolve().parent.parent / "schemas"
BROKERS = os.environ.get("KAFKA_BROKERS", "127.0.0.1:19092")
NODES = os.environ.get("SCYLLA_NODES", "127.0.0.1:19042")
REGISTRY = os.environ.get("REGISTRY_URL", "http://127.0.0.1:18081/apis/ccompat/v7")
PARTITIONS = 20
USERS = 20_000
POOL = 20_000


def at(record, path):
    """The value at a dotted path; None where a record on the way is null. A union's record comes as (name, record)."""
    for name in path.split("."):
        if isinstance(record, tuple):
            record = record[1]
        if record is None:
            return None
        record = record[name]
    return record


def decimal(scale):
    return lambda raw: None if raw is None else Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-scale)


def same(value):
    return value


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with one row for each record: `columns` maps a column to the record's path and a conversion."""

    name: str
    ddl: str
    id: str
    key: tuple[str, ...]
    columns: dict


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """One of the three. `tag` begins its ids, `share` is its part of the records, `ordered` and `tombstones` are what its config asks for."""

    name: str
    tag: int
    schema: str
    references: tuple[tuple[str, str], ...]
    id: str
    user: str
    time: str
    share: float
    ordered: bool
    tombstones: str
    table: Table
    latest: str | None = None

    def topic(self, prefix, suffix=""):
        return f"{prefix}{self.name}{suffix}"

    def text(self):
        return (SCHEMAS / self.schema).read_text(encoding="utf-8")


EVENTS = Table(
    "events_by_user",
    "user_id text, event_time timestamp, event_id uuid, kind text, amount decimal, country text, PRIMARY KEY ((user_id), event_time, event_id)",
    "event_id",
    ("user_id", "event_time", "event_id"),
    {
        "user_id": ("user.id", same),
        "event_time": ("ts", same),
        "kind": ("event_type", same),
        "amount": ("total.amount", decimal(4)),
        "country": ("user.geo.country", same),
    },
)
ORDERS = Table(
    "orders_by_user",
    "user_id text, placed_at timestamp, order_id uuid, status text, total decimal, currency text, weight_kg double, gift boolean, "
    "delivery_date date, PRIMARY KEY ((user_id), placed_at, order_id)",
    "order_id",
    ("user_id", "placed_at", "order_id"),
    {
        "user_id": ("customer.user_id", same),
        "placed_at": ("placed_at", same),
        "status": ("status", same),
        "total": ("total.amount", decimal(4)),
        "currency": ("total.currency", same),
        "weight_kg": ("weight_kg", same),
        "gift": ("gift", same),
        "delivery_date": ("delivery_date", same),
    },
)
REACTIONS = Table(
    "reactions_by_campaign",
    "campaign_id bigint, at timestamp, reaction_id uuid, user_id text, kind text, revenue decimal, link text, raw blob, segment text, "
    "PRIMARY KEY ((campaign_id), at, reaction_id)",
    "reaction_id",
    ("campaign_id", "at", "reaction_id"),
    {
        "campaign_id": ("campaign.id", same),
        "at": ("at", same),
        "user_id": ("recipient.user_id", same),
        "kind": ("kind", same),
        "revenue": ("revenue", decimal(4)),
        "link": ("link.url", same),
        "raw": ("raw", same),
        "segment": ("profile.segment", same),
    },
)
LATEST = "last_order_by_user"
LATEST_DDL = "user_id text PRIMARY KEY, order_id uuid, status text"
PROFILES_DDL = "user_id text PRIMARY KEY, segment text, score double, country text"

MONEY = (("com.acme.common.Money", "money"),)
PIPELINES = (
    Pipeline("navigation", 0x6E617600, "event.avsc", (), "event_id", "user.id", "ts", 0.5, True, "skip", EVENTS),
    Pipeline("orders", 0x6F726400, "order.avsc", MONEY, "order_id", "customer.user_id", "placed_at", 0.25, True, "dead_letter", ORDERS, LATEST),
    Pipeline("reactions", 0x72656100, "reaction.avsc", (), "reaction_id", "recipient.user_id", "at", 0.25, False, "skip", REACTIONS),
)


def arguments(description):
    """The options that must be equal in `produce` and `verify`, for they say which records there are."""
    a = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--records", type=int, default=100_000, help="of all pipelines together (100000), split 2:1:1")
    for p in PIPELINES:
        a.add_argument(f"--{p.name}", type=int, help=f"records of {p.name}, in place of its part of --records")
    a.add_argument("--bad", type=int, default=0, help="bad records of each kind, in each topic (0)")
    a.add_argument("--prefix", default="e2e-", help="of topics and subjects (e2e-)")
    a.add_argument("--keyspace", default="e2e")
    a.add_argument("--seed", type=int, default=1, help="another seed gives other records with other ids")
    a.add_argument("--pool", type=int, default=POOL, help="distinct records in each topic; the others differ from these in their id")
    return a


def counts(options):
    """Records of each pipeline, by name."""
    given = {p.name: getattr(options, p.name) for p in PIPELINES}
    share = {p.name: int(options.records * p.share) for p in PIPELINES[1:]}
    share[PIPELINES[0].name] = options.records - sum(share.values())
    return {name: share[name] if given[name] is None else given[name] for name in given}


def contact():
    """Hosts and port of the CQL nodes."""
    nodes = NODES.split(",")
    return [n.rsplit(":", 1)[0] for n in nodes], int(nodes[0].rsplit(":", 1)[1])


def report(line):
    print(json.dumps(line), flush=True)
