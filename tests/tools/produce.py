"""Writes seeded, Confluent-framed Avro records, encoded by fastavro, to the topics of the three pipelines, and registers their schemas.

Topics (input, -enriched, -dead-letters) are made where they lack, with 20 partitions; --fresh deletes them first. Prints one JSON line with what
each topic got. Bad records (--bad) lie evenly among the good ones; of the 10 MB ones there is one in each topic.
"""

import random
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import bad
import pipelines
import registry
from pool import Pool

CHUNK = 1000
BIGGEST = 16 * 1024 * 1024


def topics(options):
    """Makes the topics that lack, after deleting all of them when --fresh."""
    admin = AdminClient({"bootstrap.servers": pipelines.BROKERS})
    names = [p.topic(options.prefix, s) for p in pipelines.PIPELINES for s in ("", "-enriched", "-dead-letters")]
    have = admin.list_topics(timeout=20).topics
    if options.fresh and (old := [n for n in names if n in have]):
        for future in admin.delete_topics(old).values():
            future.result()
        until(lambda: not set(old) & set(admin.list_topics(timeout=20).topics), "the old topics to go")
    config = {"retention.ms": "-1", "max.message.bytes": str(BIGGEST)}
    have = admin.list_topics(timeout=20).topics
    new = [NewTopic(n, pipelines.PARTITIONS, 1, config=config) for n in names if n not in have]
    if new:
        until(lambda: all(created(f) for f in admin.create_topics(new).values()), "the topics to be made")
    until(lambda: all_known(names, admin.list_topics(timeout=20).topics), "the brokers to know them")


def all_known(names, topics):
    """A topic that was made a moment ago may not be told of yet."""
    return all(name in topics and topics[name].partitions for name in names)


def created(future):
    """A deletion may still be under way in the broker, so a creation can be refused; what exists by now is fine."""
    try:
        future.result()
    except KafkaException as e:
        return e.args[0].name() == "TOPIC_ALREADY_EXISTS"
    return True


def until(done, what, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            sys.exit(f"waited {seconds} s for {what}")
        time.sleep(0.3)


def size(topic):
    """How many records the topic holds."""
    consumer = Consumer({"bootstrap.servers": pipelines.BROKERS, "group.id": "test-tools", "enable.auto.commit": False})
    found = 0
    for partition in range(pipelines.PARTITIONS):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
        found += high - low
    consumer.close()
    return found


class Stream:
    """What one topic still has to get."""

    def __init__(self, pipeline, options, count):
        self.topic, self.count, self.next, self.bytes = pipeline.topic(options.prefix), count, 0, 0
        self.pool = Pool(pipeline, options)
        self.frame = b"\0" + registry.register(pipeline, options.prefix).to_bytes(4, "big")
        kinds = [(k, n) for n in range(options.bad) for k in bad.KINDS if k != "large" or n == 0]
        step = max(1, count // (len(kinds) + 1))
        self.bad = {(i + 1) * step: kn for i, kn in enumerate(kinds)}
        self.extra = len(kinds)
        self.damage = Damage(pipeline, options) if options.damage else None

    def send(self, producer):
        """The next chunk; False when there is no more."""
        entries, frame, topic = self.pool.entries, self.frame, self.topic
        end = min(self.count, self.next + CHUNK)
        for i in range(self.next, end):
            if i in self.bad:
                self.send_bad(producer, *self.bad.pop(i))
            user, head, tail = entries[i % len(entries)]
            value = b"%b%b%012x%b" % (frame, head, i, tail)
            self.bytes += len(value)
            if self.damage:
                value, headers = self.damage.pass_through(value, i)
                put(producer, topic, value, user, headers)
            else:
                put(producer, topic, value, user)
        self.next = end
        if end == self.count:
            for kind, number in self.bad.values():
                self.send_bad(producer, kind, number)
            self.bad = {}
        return end < self.count

    def send_bad(self, producer, kind, number):
        put(producer, self.topic, bad.value(kind, number, self.pool, self.frame), bad.key(kind, number))


class Damage:
    """Damages a part of the values at random. Headers keep what the value may lose: the record's number, and whether it was damaged."""

    def __init__(self, pipeline, options):
        self.random = random.Random(f"{pipeline.name} {options.seed} {options.label}")
        self.part, self.label = options.damage, options.label

    def pass_through(self, value, number):
        damaged = self.random.random() < self.part
        headers = [("number", f"{self.label}-{number}"), ("damaged", str(damaged).lower())]
        return (self.damaged(value) if damaged else value), headers

    def damaged(self, value):
        r, made = self.random, bytearray(value)
        at = r.randrange(len(made))
        match r.randrange(4):
            case 0:  # one bit
                made[at] ^= 1 << r.randrange(8)
            case 1:  # the end is missing
                del made[at:]
            case 2:  # noise
                made[at : at + 8] = r.randbytes(len(made[at : at + 8]))
            case _:  # more than there was
                made[at:at] = r.randbytes(r.randint(1, 16))
        return bytes(made)


def put(producer, topic, value, key, headers=()):
    while True:
        try:
            return producer.produce(topic, value, key, headers=list(headers))
        except BufferError:
            producer.poll(0.1)


def main():
    parser = pipelines.arguments(__doc__)
    parser.add_argument("--fresh", action="store_true", help="delete the topics first")
    parser.add_argument("--only-topics", action="store_true", help="make the topics and register the schemas, and write nothing")
    parser.add_argument("--rate", type=float, help="records a second at most, all topics together")
    parser.add_argument("--damage", type=float, default=0.0, help="damage this part of the values at random, and number all records in a header (0)")
    parser.add_argument("--label", default="", help="begins these numbers")
    options = parser.parse_args()
    topics(options)
    counts = pipelines.counts(options)
    if options.only_topics:
        pipelines.report({p.topic(options.prefix): registry.register(p, options.prefix) for p in pipelines.PIPELINES})
        return
    began = time.monotonic()
    streams = [Stream(p, options, counts[p.name]) for p in pipelines.PIPELINES if counts[p.name]]
    pooled = time.monotonic()
    before = {s.topic: size(s.topic) for s in streams}
    failures = []
    producer = Producer(
        {
            "bootstrap.servers": pipelines.BROKERS,
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 50,
            "batch.size": 500_000,
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 262_144,
            "message.max.bytes": BIGGEST,
            "partitioner": "murmur2_random",
            "delivery.report.only.error": True,
            "on_delivery": lambda error, _: error and failures.append(str(error)),
        }
    )
    sent, open_streams = 0, list(streams)
    while open_streams:
        for stream in list(open_streams):
            sent -= stream.next
            if not stream.send(producer):
                open_streams.remove(stream)
            sent += stream.next
            producer.poll(0)
            if options.rate and (ahead := sent / options.rate - (time.monotonic() - pooled)) > 0:
                time.sleep(ahead)
    if (left := producer.flush(120)) or failures:
        sys.exit(f"{left} records were not delivered in time, {len(failures)} failed: {failures[:3]}")
    seconds = time.monotonic() - pooled
    line = {"pool_s": round(pooled - began, 1), "seconds": round(seconds, 1), "records_per_s": round(sent / seconds), "topics": {}}
    for s in streams:
        arrived = size(s.topic) - before[s.topic]
        line["topics"][s.topic] = {"records": s.count, "bad": s.extra, "bytes": s.bytes, "mean_bytes": s.bytes // max(1, s.count)}
        if arrived != s.count + s.extra:
            sys.exit(f"{s.topic} grew by {arrived} records, and {s.count + s.extra} were sent")
    pipelines.report(line)


if __name__ == "__main__":
    main()
