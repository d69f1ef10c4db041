"""What surrounds a first pipeline: a topic with a schema, a table with one row, one record in, and the record that comes out.

usage: clicks.py prepare | send | read
  prepare  makes topics, schema and table
  send     publishes a click, and waits for the record that comes of it
  read     waits a minute for the next record of the output topic, whatever its schema

It belongs to docs/get-started.md, takes the variables that the page sets, and needs confluent-kafka, fastavro and scylla-driver.
"""

import io
import json
import os
import sys
import time
import urllib.error
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


def found(path, body=None):
    """The registry's answer; None where it has no such thing."""
    try:
        return registry(path, body)
    except urllib.error.HTTPError as error:
        if error.code != 404 or not is_unknown(error.read()):
            raise
        return None


def is_unknown(body):
    """Whether the registry knows no such subject or schema, by Confluent's codes: the 404 of a proxy or of another path has neither."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("error_code") in (40401, 40403)


def look_up():
    """The id that the topic's values have for click.avsc. Registers nothing: a topic of another schema is somebody's."""
    answer = found(f"/subjects/{TOPIC}-value", {"schema": json.dumps(SCHEMA)})
    if answer is None:
        sys.exit(f"the values of topic {TOPIC} do not have the schema click.avsc, so nothing is sent there; `clicks.py read` waits for the next record that comes out")
    return answer["id"]


def prepare():
    """Topics, schema and table; what is there already stays."""
    from cassandra.cluster import Cluster

    if not found(f"/subjects/{TOPIC}-value/versions"):
        registry(f"/subjects/{TOPIC}-value/versions", {"schema": json.dumps(SCHEMA)})
    look_up()
    admin = AdminClient({"bootstrap.servers": BROKERS})
    for future in admin.create_topics([NewTopic(TOPIC + end, 4) for end in ("", "-enriched", "-dead-letters")]).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise
    hosts = [(node.rsplit(":", 1) + ["9042"])[:2] for node in NODES.split(",")]
    with Cluster([host for host, _ in hosts], port=int(hosts[0][1])) as cluster:
        session = cluster.connect()
        session.execute(f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}")
        session.execute(f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.users (user_id text PRIMARY KEY, segment text, country text)")
        session.execute(f"INSERT INTO {KEYSPACE}.users (user_id, segment, country) VALUES ('u1', 'gold', 'FR')")
    print(f"topics {TOPIC}, {TOPIC}-enriched and {TOPIC}-dead-letters, and table {KEYSPACE}.users with user u1")


def output():
    """A consumer of the output topic that begins at its end."""
    topic = f"{TOPIC}-enriched"
    consumer = Consumer({"bootstrap.servers": BROKERS, "group.id": "get-started", "enable.auto.commit": False})
    partitions = [TopicPartition(topic, number) for number in consumer.list_topics(topic, timeout=20).topics[topic].partitions]
    for partition in partitions:
        partition.offset = consumer.get_watermark_offsets(partition, timeout=20)[1]
    consumer.assign(partitions)
    return consumer


def come_out(consumer, is_it):
    """Prints the first record that is the one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        message = consumer.poll(1)
        if message is None or message.error() or not message.value():
            continue
        value = message.value()
        schema = registry(f"/schemas/ids/{int.from_bytes(value[1:5], 'big')}")["schema"]
        record = schemaless_reader(io.BytesIO(value[5:]), parse_schema(json.loads(schema)), None)
        if is_it(record):
            print(json.dumps(record, default=str))
            break
    else:
        sys.exit("nothing came within a minute")
    consumer.close()


def send():
    """One click of user u1, framed as Confluent's serializer frames it: a zero byte, the schema's id, the datum."""
    value = io.BytesIO()
    value.write(b"\0" + look_up().to_bytes(4, "big"))
    now = int(time.time() * 1000)
    click = {"id": now, "time": now, "page": "/pricing", "user": {"id": "u1", "agent": None}}
    schemaless_writer(value, parse_schema(SCHEMA), click)
    consumer = output()
    failed = []
    producer = Producer({"bootstrap.servers": BROKERS})
    producer.produce(TOPIC, value.getvalue(), "u1", on_delivery=lambda error, _: error and failed.append(error))
    if producer.flush(30) or failed:
        sys.exit(f"not delivered: {failed}")
    print(f"sent {json.dumps(click)}")
    come_out(consumer, lambda record: record["id"] == click["id"])


def read():
    """The next record of the output topic; waits for it."""
    come_out(output(), lambda _: True)


if __name__ == "__main__":
    commands = {"prepare": prepare, "send": send, "read": read}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
