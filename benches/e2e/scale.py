"""Messina's cost per record as one thing grows: partitions, records, pipelines, records in flight, the cache's hit ratio, the size of a value.

usage: scale.py ROUNDS partitions|records|pipelines|in-flight|cache|size ...

Each setting is run once in each round, by measure.py on the CQL stand-in; a line of RESULTS has the setting as its `label`. Topics that a setting
needs are made and filled once, and stay, and are made anew where they have fewer records than that; those of `records` are taken away at the end: ten million
records need 12 GB of disk. DIVIDE: by how much fewer records a run has.
"""

import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

HERE = pathlib.Path(__file__).resolve().parent
E = os.environ
sys.path.insert(0, os.path.join(E["PEERS"], "tools"))
import bench  # noqa: E402  the peers' harness: topics
import load  # noqa: E402  the peers' loader: messages and registration

# Topics to delete at the end.
AT_THE_END = []
DIVIDE = int(E.get("DIVIDE", "1"))
FLAT = '{"type": "record", "name": "Flat", "fields": [{"name": "id", "type": "string"}, {"name": "user", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "body", "type": "string"}]}'


def count(topic):
    """How many records a topic has; 0 if it does not exist."""
    consumer = Consumer({"bootstrap.servers": E["KAFKA_BOOTSTRAP"], "group.id": "scale-count", "enable.auto.commit": False})
    try:
        found = consumer.list_topics(timeout=10).topics.get(topic)
        ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in (found.partitions if found else ())]
        return sum(high - low for low, high in ends)
    finally:
        consumer.close()


def fill(topic, partitions, n, records):
    """Creates and fills the topic, unless it has n records: a run on a topic that was filled in part, or for a larger DIVIDE, would wait in vain."""
    if count(topic) >= n:
        return
    bench.fresh_topic(topic, partitions)
    producer = Producer({"bootstrap.servers": E["KAFKA_BOOTSTRAP"], "compression.type": "lz4", "linger.ms": 50, "partitioner": "murmur2_random", "queue.buffering.max.messages": 1_000_000})
    for i, (key, value) in enumerate(records):
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        if i % 1000 == 0:
            producer.poll(0)
    producer.flush()
    print(f"topic {topic} filled", file=sys.stderr)


def rich(copies):
    """The number of records, and the records."""
    sid = load.register("events-value", os.path.join(E["PEERS"], "schema", "event.avsc"))
    head = b"\0" + struct.pack(">I", sid)
    messages = load.read(os.path.join(E["PEERS_BUILD"], "messages.bin"))
    return copies * len(messages), ((key, head + load.fresh_id(datum, copy)) for copy in range(copies) for key, datum in messages)


def text(s):
    data, n, head = s.encode(), len(s.encode()) << 1, b""
    while n > 0x7F:
        head, n = head + bytes([n & 0x7F | 0x80]), n >> 7
    return head + bytes([n]) + data


def flat(size, records):
    with tempfile.NamedTemporaryFile("w", suffix=".avsc") as file:
        file.write(FLAT)
        file.flush()
        sid = load.register("events-flat-value", file.name)
    rng = random.Random(7)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(500)]
    prose = " ".join(rng.choices(words, k=1_000_000))
    head, users = b"\0" + struct.pack(">I", sid), [str(uuid.UUID(int=i)) for i in range(20_000)]
    for i in range(records):
        user = users[i * 7919 % len(users)]
        value = head + text(str(uuid.UUID(int=i))) + text(user) + b"\x80\xa0\xde\xf9\xb5\x64"
        body = max(1, size - len(value) - 2)
        # Words of a small vocabulary compress as text does; a single repeated letter would compress to nothing.
        start = i * 104_729 % (len(prose) - body)
        yield user.encode(), value + text(prose[start : start + body])


def pipelines(n, topics, linger):
    """A configuration of n pipelines, among which the topics are divided, with this `linger.ms`."""
    base = (HERE / "peers.toml").read_text(encoding="utf-8").replace('"linger.ms" = 5', f'"linger.ms" = {linger}')
    head, _, body = base.partition("[pipelines.events]")
    body = "[pipelines.events]" + body
    parts = [head]
    for i in range(n):
        mine = ", ".join(f'"{t}"' for t in topics[i::n])
        one = body.replace("pipelines.events", f"pipelines.p{i}").replace('topics = ["events"]', f"topics = [{mine}]")
        one = one.replace('"enrich-messina"', f'"{E["GROUP"]}-{i}"')
        parts.append(one.replace('topic = "events-enriched-messina"', 'topic = "events-enriched-rich"'))
    return "\n".join(parts)


def run(label, n, **settings):
    env = {**E, "N": str(n // DIVIDE), "LABEL": label, "OUT_TOPIC": "events-enriched-rich", **settings}
    subprocess.run([E["PY"], str(HERE / "measure.py"), "run", "stub", *filter(None, [settings.get("OVERLAY")])], env=env, check=True)


def partitions():
    for n in (1, 5, 20, 60):
        topic = f"events-partitions-{n}"
        fill(topic, n, *rich(2))
        yield lambda n=n, topic=topic: run(f"{n} partitions", 190_000, IN_TOPIC=topic, PARTITIONS=str(n))


def records():
    topic, out = "events-ten-million", "events-enriched-ten-million"
    AT_THE_END.extend([topic, out])
    # Rounded up, because a run must not wait for more records than there are.
    fill(topic, 20, *rich(-(-100 // DIVIDE)))
    # Not all records: a member that stops in the middle of its work has less to wait for than one at the end of its topic.
    for n in (10_000, 100_000, 1_000_000, 9_900_000):
        yield lambda n=n: run(f"{n:,} records", n, IN_TOPIC=topic, OUT_TOPIC=out)


def many_pipelines():
    topics = [f"events-share-{i}" for i in range(10)]
    records = None
    for i, topic in enumerate(topics):
        records = records or list(rich(2)[1])
        fill(topic, 2, len(records[i::10]), records[i::10])
    for n, linger in ((1, 5), (3, 5), (10, 5), (10, 20)):

        def go(n=n, linger=linger):
            E["GROUP"] = f"scale-{n}-{uuid.uuid4().hex[:8]}"
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(pipelines(n, topics, linger))
                file.flush()
                run(f"{n} pipelines, linger.ms {linger}", 190_000, CONFIG=file.name, IN_TOPIC=topics[0], PARTITIONS="2")

        yield go


def in_flight():
    for limit in (1, 16, 128, 512, 1024, 8192):
        n = {1: 4_000, 16: 40_000}.get(limit, 190_000)
        yield lambda limit=limit, n=n: run(f"{limit} in flight", n, IN_TOPIC="events-bulk", MAX_IN_FLIGHT=str(limit))


def cache():
    overlay = (HERE / "cached.toml").read_text(encoding="utf-8")
    base = (HERE / "peers.toml").read_text(encoding="utf-8")
    before, behind = base.partition("[[pipelines")[0], base.partition("[pipelines.events.sink]")[2]
    # Cache sizes in bytes for as many users as give these hit ratios; the measured ratio is in the line.
    for ratio, size in ((50, "2MiB"), (95, "32MiB")):

        def go(ratio=ratio, size=size):
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(before + overlay.replace("32MiB", size) + "\n[pipelines.events.sink]" + behind)
                file.flush()
                run(f"about {ratio} % hits", 390_000, CONFIG=file.name, IN_TOPIC="events-bulk")

        yield go
    yield lambda: run("no cache", 190_000, IN_TOPIC="events-bulk")


def flat_config():
    """The peers' job over the flat records."""
    config = (HERE / "peers.toml").read_text(encoding="utf-8")
    for old, new in (
        ("event.user.id", "event.user"),
        ("event.event_id", "event.id"),
        ("event.ts", "event.at"),
        ("event.event_type", "event.user"),
        (', amount = "event.total.amount"', ""),
        (", amount,", ","),
        (", :amount,", ","),
    ):
        config = config.replace(old, new)
    return config


def size():
    config = flat_config()
    for bytes_, records in ((100, 400_000), (1_000, 200_000), (10_000, 40_000)):
        topic = f"events-words-{bytes_}"
        fill(topic, 20, records, flat(bytes_, records))

        def go(bytes_=bytes_, records=records, topic=topic):
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(config)
                file.flush()
                run(f"values of {bytes_} bytes", records * 95 // 100, CONFIG=file.name, IN_TOPIC=topic, OUT_TOPIC="events-enriched-flat")

        yield go


if __name__ == "__main__":
    kinds = {"partitions": partitions, "records": records, "pipelines": many_pipelines, "in-flight": in_flight, "cache": cache, "size": size}
    if len(sys.argv) < 3 or not sys.argv[1].isdigit() or any(kind not in kinds for kind in sys.argv[2:]):
        sys.exit(__doc__)
    try:
        settings = [setting for kind in sys.argv[2:] for setting in kinds[kind]()]
        for _ in range(int(sys.argv[1])):
            for setting in settings:
                setting()
    finally:
        if AT_THE_END:
            admin = AdminClient({"bootstrap.servers": E["KAFKA_BOOTSTRAP"]})
            there = admin.list_topics(timeout=10).topics
            left = [topic for topic in AT_THE_END if topic in there]
            for future in admin.delete_topics(left).values() if left else ():
                future.result()
