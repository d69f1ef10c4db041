"""Waits until the groups of the three pipelines have committed a part of their input topics, as the broker tells it. Exit status 1: not in time.

Prints one JSON line: how much of each topic is committed.
"""

import sys
import time

from confluent_kafka import Consumer, TopicPartition

import pipelines


def committed(consumer, topic):
    """(offsets committed, offsets there are), both counted from the beginning of each partition."""
    parts = [TopicPartition(topic, p) for p in range(pipelines.PARTITIONS)]
    done = total = 0
    for part in consumer.committed(parts, timeout=20):
        low, high = consumer.get_watermark_offsets(part, timeout=20)
        total += high - low
        done += max(0, part.offset - low)
    return done, total


def main():
    parser = pipelines.arguments(__doc__)
    parser.add_argument("--part", type=float, default=1.0, help="of the records of all topics (1.0)")
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    names = [p for p in pipelines.PIPELINES if pipelines.counts(options)[p.name]]
    consumers = {p.topic(options.prefix): Consumer({"bootstrap.servers": pipelines.BROKERS, "group.id": p.topic(options.prefix, "-enrichment")}) for p in names}
    began = time.monotonic()
    while True:
        progress = {topic: committed(c, topic) for topic, c in consumers.items()}
        done, total = (sum(column) for column in zip(*progress.values(), strict=True))
        seconds = time.monotonic() - began
        reached = done >= options.part * total
        if reached or seconds > options.seconds:
            pipelines.report({"reached": reached, "committed": done, "records": total, "seconds": round(seconds, 1), "topics": progress})
            sys.exit(not reached)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
