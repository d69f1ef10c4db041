"""Compares what the three pipelines did with what they had to do, knowing only the seed and the counts: one JSON line, exit status 1 when it differs.

Output topics: the id of every record, its key, and the order by key where the pipeline promises it; of a sample, every field, decoded by fastavro
with the schema that the registry has under the record's id. Tables: the id of every row, and every column of a sample. Dead letters: every bad
record that `produce --bad` sent ended where the config says; one example of each kind is shown with its headers. Duplicates are counted and are
no error, unless --no-duplicates; in tables there can be none.
"""

import datetime
import itertools
import json
import random
import sys
import time
import uuid

from cassandra.concurrent import execute_concurrent_with_args
from confluent_kafka import Consumer, TopicPartition

import bad
import load
import pipelines
import pool
import profiles
import registry
import schema

ADDED = ("segment", "user_score", "country", "processed_at")
SHOWN = 3
EPOCH = datetime.datetime(1970, 1, 1)


def records(topic):
    """All records of a topic, up to where it ends now."""
    consumer = Consumer(
        {
            "bootstrap.servers": pipelines.BROKERS,
            "group.id": "test-tools",
            "enable.auto.commit": False,
            "fetch.max.bytes": 64 * 1024 * 1024,
            "queued.max.messages.kbytes": 131_072,
        }
    )
    left = {}
    for p in consumer.list_topics(topic, timeout=20).topics[topic].partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20)
        if high > low:
            left[p] = high
    if left:
        consumer.assign([TopicPartition(topic, p, 0) for p in left])
    silent = time.monotonic()
    while left:
        for record in consumer.consume(5000, timeout=1):
            silent = time.monotonic()
            if record.error():
                sys.exit(f"{topic}: {record.error()}")
            yield record
            if record.offset() + 1 >= left.get(record.partition(), 0):
                left.pop(record.partition(), None)
        # Control records at the end (of transactions) are never handed out: the position tells that they were passed.
        for position in consumer.position([TopicPartition(topic, p) for p in left]):
            if position.offset >= left[position.partition]:
                left.pop(position.partition)
        if time.monotonic() - silent > 60:
            sys.exit(f"{topic}: no record for 60 s, {len(left)} partitions are not read to their end")
    consumer.close()


class Check:
    """One pipeline: its expectation, and what is found against it."""

    def __init__(self, pipeline, options, count):
        self.pipeline, self.options, self.count = pipeline, options, count
        self.pool = pool.Pool(pipeline, options)
        self.prefix = self.pool.prefix.encode()
        self.sample = set(random.Random(options.seed).sample(range(count), min(count, options.sample or count)))
        self.schemas, self.shown = {}, 0
        self.found = {"expected": count}

    def show(self, what, *details):
        if self.shown < SHOWN:
            self.shown += 1
            print(f"{self.pipeline.name}: {what}:", *details, file=sys.stderr)

    def output(self):
        """Every record of the output topic."""
        seen, last = bytearray(self.count), {}
        tally = dict.fromkeys(("duplicated", "unknown", "wrong_key", "out_of_order", "wrong", "compared"), 0)
        self.bad_in_output = {}
        for record in records(self.pipeline.topic(self.options.prefix, "-enriched")):
            value, key = record.value(), record.key()
            number = self.number(value)
            kind = bad.kind_of(key)
            if kind is None and number is not None and number >= bad.APART:
                kind = "large"  # with a key of the pipeline's own making
            if kind:
                self.bad_in_output[kind] = self.bad_in_output.get(kind, 0) + 1
            elif number is None or number >= self.count:
                tally["unknown"] += 1
                self.show("unknown record in the output", key, (value or b"")[:80])
            else:
                self.known(record, number, seen, last, tally)
        self.found |= {"found": self.count - seen.count(0), "missing": seen.count(0), **tally}
        if seen.count(0):
            self.show("missing in the output, for example", self.pool.prefix + f"{seen.index(0):012x}", "number", seen.index(0))

    def number(self, value):
        """The number in a record's id, found by the id's first 24 bytes."""
        at = -1 if value is None else value.find(self.prefix)
        return None if at < 0 else int(value[at + len(self.prefix) : at + len(self.prefix) + pool.DIGITS], 16)

    def known(self, record, number, seen, last, tally):
        key = record.key()
        tally["wrong_key"] += key != self.pool.user(number).encode()
        if seen[number]:
            tally["duplicated"] += 1
        else:
            tally["out_of_order"] += number < last.get(key, -1)
            last[key] = number
            if number in self.sample:
                tally["compared"] += 1
                tally["wrong"] += not self.same(number, record.value())
        seen[number] = min(255, seen[number] + 1)

    def same(self, number, value):
        """Whether the decoded output is the decoded input with the profile of its user."""
        wanted = pool.decode(self.pool.schema, self.pool.datum(number))
        try:
            found = pool.decode(self.output_schema(int.from_bytes(value[1:5], "big")), value[5:])
        except Exception as e:  # whatever fastavro says about bytes that it cannot read
            self.show("not readable", number, repr(e))
            return False
        segment, score, country = profiles.profile(self.pool.user(number)) or (None, None, None)
        added = {name: found.pop(name, "absent") for name in ADDED}
        at = added.pop("processed_at")
        recent = isinstance(at, int) and -60 < time.time() - at / self.now_per_second < 86_400
        right = {"segment": segment, "user_score": score, "country": country}
        if value[0] == 0 and found == wanted and added == right and recent:
            return True
        differs = {k: (wanted.get(k), found.get(k)) for k in {*wanted, *found} if wanted.get(k) != found.get(k)}
        self.show("differs", number, f"input fields {differs}, added {added}, wanted {right}, processed_at {at}")
        return False

    def output_schema(self, schema_id):
        if schema_id not in self.schemas:
            text, parsed = registry.fetch(schema_id)
            self.compare_schema(text)
            self.schemas[schema_id] = parsed
        return self.schemas[schema_id]

    def compare_schema(self, text):
        """The output schema must begin with the fields of the input, logical types and defaults included, and time in a timestamp."""
        known = {name for name, _ in self.pipeline.references}
        given = schema.fields(json.loads(self.pipeline.text()), set(known))
        found = schema.fields(text, set(known))
        differing = [pair for pair in itertools.zip_longest(given, found[: len(given)]) if pair[0] != pair[1]]
        kind = {f["name"]: json.dumps(f["type"]) for f in found}.get("processed_at", "")
        self.now_per_second = 1_000 if "timestamp-millis" in kind else 1_000_000
        if "timestamp" not in kind:
            differing.append(("processed_at is a timestamp", kind))
        if differing:
            self.found["schema_differs"] = self.found.get("schema_differs", 0) + 1
            self.show("the output schema differs (wanted, found)", *differing)

    def dead_letters(self):
        """Where every bad record ended."""
        sent = {k: (min(1, self.options.bad) if k == "large" else self.options.bad) for k in bad.KINDS}
        dead, examples, unexpected, repeated = {k: set() for k in bad.KINDS}, {}, 0, 0
        for record in records(self.pipeline.topic(self.options.prefix, "-dead-letters")):
            kind, key = bad.kind_of(record.key()), record.key()
            headers = {k: (v or b"").decode("utf-8", "replace")[:200] for k, v in record.headers() or ()}
            if kind not in dead:
                unexpected += 1
                self.show("unexpected dead letter", key, headers)
                continue
            repeated += key in dead[kind]
            dead[kind].add(key)
            examples.setdefault(kind, headers)
        if self.pipeline.tombstones == "skip":
            unexpected += len(dead["tombstone"])
        self.found |= {"dead_letters": sum(map(len, dead.values())), "dead_unexpected": unexpected, "dead_duplicated": repeated}
        doomed = (*bad.DEAD, "tombstone") if self.pipeline.tombstones == "dead_letter" else bad.DEAD
        self.found["dead_missing"] = sum(max(0, sent[k] - len(dead[k])) for k in doomed)
        self.found["large_lost"] = sent["large"] - min(sent["large"], len(dead["large"]) + self.bad_in_output.get("large", 0))
        if self.options.bad:
            output = self.bad_in_output
            self.found["bad"] = {k: {"sent": sent[k], "dead_letters": len(dead[k]), "output": output.get(k, 0), "headers": examples.get(k)} for k in bad.KINDS}
        self.found["bad_in_output"] = sum(n for k, n in self.bad_in_output.items() if k != "large")

    def rows(self, session):
        """Every row of the pipeline's table."""
        table, space = self.pipeline.table, self.options.keyspace
        seen, unknown = bytearray(self.count), 0
        head = self.pool.prefix.replace("-", "")
        for (row_id,) in session.execute(f"SELECT {table.id} FROM {space}.{table.name}", timeout=300):
            number = row_id.int & 0xFFFFFFFFFFFF
            if row_id.hex[:20] != head or (self.count <= number < bad.APART):
                unknown += 1
            elif number < self.count:
                seen[number] = 1
        columns = list(table.columns)
        where = " AND ".join(f"{k} = ?" for k in table.key)
        select = session.prepare(f"SELECT {', '.join(columns)} FROM {space}.{table.name} WHERE {where}")
        sample = sorted(n for n in self.sample if seen[n])
        wrong = 0
        wanted = [self.row(n) for n in sample]
        keys = [[row[k] for k in table.key] for row in wanted]
        answers = execute_concurrent_with_args(session, select, keys, concurrency=100, results_generator=True)
        for number, row, (_, answer) in zip(sample, wanted, answers, strict=True):
            found = dict(zip(columns, map(raw, answer.one() or [None] * len(columns)), strict=True))
            right = {c: row[c] for c in columns}
            if found != right:
                wrong += 1
                self.show("row differs", number, {c: (right[c], found[c]) for c in columns if right[c] != found[c]})
        missing = seen.count(0)
        self.found |= {"rows_expected": self.count, "rows_found": self.count - missing, "rows_missing": missing}
        self.found |= {"rows_wrong": wrong, "rows_compared": len(sample), "rows_unknown": unknown}
        if missing:
            self.show("missing in the table, for example", self.pool.prefix + f"{seen.index(0):012x}", "number", seen.index(0))
        if self.pipeline.latest:
            self.latest(session)

    def row(self, number):
        event = pool.decode(self.pool.schema, self.pool.datum(number))
        segment = (profiles.profile(self.pool.user(number)) or (None,))[0]
        row = {c: convert(pipelines.at({**event, "profile": {"segment": segment}}, path)) for c, (path, convert) in self.pipeline.table.columns.items()}
        row[self.pipeline.table.id] = uuid.UUID(self.pool.prefix + f"{number:012x}")
        return row

    def latest(self, session):
        """Of each user the row of the last record must have stayed: writes converge to the order of the partition, replayed or not."""
        wanted, size = {}, len(self.pool.entries)
        for entry in range(min(size, self.count)):
            last = entry + (self.count - 1 - entry) // size * size
            user = self.pool.user(entry)
            wanted[user] = max(wanted.get(user, -1), last)
        query = f"SELECT user_id, order_id FROM {self.options.keyspace}.{self.pipeline.latest}"
        found = {user: order.int & 0xFFFFFFFFFFFF for user, order in session.execute(query, timeout=120)}
        wrong = [u for u in wanted if found.get(u) != wanted[u]]
        self.found |= {"latest_expected": len(wanted), "latest_wrong": len(wrong)}
        if wrong:
            self.show("not the user's last order", [(u, "wanted", wanted[u], "found", found.get(u)) for u in wrong[:SHOWN]])


def raw(value):
    """A column as the Avro value that it came from."""
    if hasattr(value, "days_from_epoch"):
        return value.days_from_epoch
    if hasattr(value, "timestamp"):
        return round((value - EPOCH).total_seconds() * 1000)
    return value


ERRORS = (
    *("missing", "unknown", "wrong", "wrong_key", "schema_differs"),
    *("rows_missing", "rows_wrong", "rows_unknown", "latest_wrong"),
    *("dead_missing", "dead_unexpected", "large_lost", "bad_in_output"),
)


def main():
    parser = pipelines.arguments(__doc__)
    parser.add_argument("--sample", type=int, default=20_000, help="records of each pipeline that are compared field by field; 0: all (20000)")
    parser.add_argument("--no-duplicates", action="store_true", help="a duplicate in an output topic is an error")
    parser.add_argument("--no-rows", action="store_true", help="do not look at the tables")
    options = parser.parse_args()
    began = time.monotonic()
    counts = pipelines.counts(options)
    checks = [Check(p, options, counts[p.name]) for p in pipelines.PIPELINES if counts[p.name]]
    for check in checks:
        check.output()
        check.dead_letters()
    if not options.no_rows:
        cluster, session = load.connect()
        for check in checks:
            check.rows(session)
        cluster.shutdown()
    total, failed = {}, []
    for check in checks:
        found = check.found
        errors = [*ERRORS, *(["duplicated"] if options.no_duplicates else []), *(["out_of_order"] if check.pipeline.ordered else [])]
        failed += [f"{check.pipeline.name}.{e}" for e in errors if found.get(e)]
        for name, value in found.items():
            if isinstance(value, int):
                total[name] = total.get(name, 0) + value
    line = {**total, "ok": not failed, "failed": failed, "seconds": round(time.monotonic() - began, 1)}
    pipelines.report({**line, "pipelines": {c.pipeline.name: c.found for c in checks}})
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
