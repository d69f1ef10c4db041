"""What surrounds a first pipeline: a topic with a schema, a table with one row, one record in, and the record that comes out.

usage: clicks.py prepare | send | read

It belongs to docs/get-started.md, takes the variables that the page sets, and needs confluent-kafka, fastavro and scylla-driver.
"""

import io
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from fastavro import parse_schema, schemaless_reader, schemaless_writer

BROKERS = os.environ["KAFKA_BROKERS"]
REGISTRY = os.environ["REGISTRY_URL"].rstrip("/")
NODES = os.environ["SCYLLA_NODES"]
TOPIC = os.environ["TOPIC"]
KEYSPACE = os.environ["KEYSPACE"]
SCHEMA = json.loads(Path(__file__).with_name("click.avsc").read_text("utf-8"))


def registry(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(REGISTRY + path, data, {"Content-Type": "application/vnd.schemaregistry.v1+json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def register():
    """The id of the schema of the topic's values; registering what is there already changes nothing."""
    return registry(f"/subjects/{TOPIC}-value/versions", {"schema": json.dumps(SCHEMA)})["id"]


def prepare():
    """Topics, schema and table; what is there already stays."""
    from cassandra.cluster import Cluster

    admin = AdminClient({"bootstrap.servers": BROKERS})
    for future in admin.create_topics([NewTopic(TOPIC + end, 4) for end in ("", "-enriched", "-dead-letters")]).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise
    register()
    hosts = [node.rsplit(":", 1) for node in NODES.split(",")]
    with Cluster([host for host, _ in hosts], port=int(hosts[0][1])) as cluster:
        session = cluster.connect()
        session.execute(f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}")
        session.execute(f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.users (user_id text PRIMARY KEY, segment text, country text)")
        session.execute(f"INSERT INTO {KEYSPACE}.users (user_id, segment, country) VALUES ('u1', 'gold', 'FR')")
    print(f"topics {TOPIC}, {TOPIC}-enriched and {TOPIC}-dead-letters, and table {KEYSPACE}.users with user u1")


def send():
    """One click of user u1, framed as Confluent's serializer frames it: a zero byte, the schema's id, the datum."""
    value = io.BytesIO()
    value.write(b"\0" + register().to_bytes(4, "big"))
    click = {"id": 1, "time": int(time.time() * 1000), "page": "/pricing", "user": {"id": "u1", "agent": None}}
    schemaless_writer(value, parse_schema(SCHEMA), click)
    failed = []
    producer = Producer({"bootstrap.servers": BROKERS})
    producer.produce(TOPIC, value.getvalue(), "u1", on_delivery=lambda error, _: error and failed.append(error))
    if producer.flush(30) or failed:
        sys.exit(f"not delivered: {failed}")
    print(f"sent {json.dumps(click)}")


def read():
    """The first record of the output topic; waits for it."""
    consumer = Consumer({"bootstrap.servers": BROKERS, "group.id": "get-started", "enable.auto.commit": False})
    partitions = consumer.list_topics(f"{TOPIC}-enriched", timeout=20).topics[f"{TOPIC}-enriched"].partitions
    consumer.assign([TopicPartition(f"{TOPIC}-enriched", number, 0) for number in partitions])
    end = time.monotonic() + 60
    while time.monotonic() < end:
        message = consumer.poll(1)
        if message is None or message.error():
            continue
        value = message.value()
        schema = registry(f"/schemas/ids/{int.from_bytes(value[1:5], 'big')}")["schema"]
        print(json.dumps(schemaless_reader(io.BytesIO(value[5:]), parse_schema(json.loads(schema)), None), default=str))
        break
    else:
        sys.exit("nothing came within a minute")
    consumer.close()


if __name__ == "__main__":
    commands = {"prepare": prepare, "send": send, "read": read}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
