"""A run of bad records with a real server of Sentry's protocol: one fault is one issue, and contains no payload, key or secret."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request
import uuid
from pathlib import Path

from operate import HERE, free_port, get, metric, services_or_skip, until

RECORDS = 20_000
SECRETS = ("k3y-s3cret", "v4lue-s3cret", "test-password-of-the-registry")
SCHEMA = {"type": "record", "name": "Poisoned", "namespace": "com.acme.test", "fields": [{"name": "id", "type": "long"}]}


class Sentry(unittest.TestCase):
    def setUp(self):
        services_or_skip(self, "KAFKA_BROKERS", "REGISTRY_URL")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.topic = f"operate-{uuid.uuid4().hex[:12]}"
        self.make_topics()

    def make_topics(self):
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": os.environ["KAFKA_BROKERS"]})
        topics = [self.topic, f"{self.topic}-out", f"{self.topic}-dead"]
        for future in admin.create_topics([NewTopic(topic, 4, 1) for topic in topics]).values():
            future.result()
        self.addCleanup(lambda: [future.result() for future in admin.delete_topics(topics).values()])
        url = f"{os.environ['REGISTRY_URL']}/subjects/{self.topic}-value/versions"
        body = json.dumps({"schema": json.dumps(SCHEMA)}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/vnd.schemaregistry.v1+json"})
        urllib.request.urlopen(request, timeout=60).read()

    def poison(self):
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": os.environ["KAFKA_BROKERS"], "linger.ms": 20})
        for number in range(RECORDS):
            producer.produce(self.topic, key=f"k3y-s3cret-{number}", value=f"v4lue-s3cret-{number}")
            producer.poll(0)
        self.assertEqual(producer.flush(120), 0)

    def run_poisoned(self, dsn):
        """Runs Messina until all records are dead letters. Returns (events sent, events that failed, events suppressed or dropped)."""
        port = free_port()
        address = f"127.0.0.1:{port}"
        config = self.folder / f"poisoned-{port}.toml"
        config.write_text(
            f"""store = "sqlite:{self.folder}/store.db"
[kafka]
brokers = "{os.environ['KAFKA_BROKERS']}"
[registry]
url = "{os.environ['REGISTRY_URL']}"
username = "messina"
password = "test-password-of-the-registry"
register = true
[http]
listen = "{address}"
[sentry]
dsn = "{dsn}"
environment = "tests"
[pipelines.poisoned.source]
topics = ["{self.topic}"]
group = "{self.topic}-{port}"
[pipelines.poisoned.sink]
topic = "{self.topic}-out"
[pipelines.poisoned.dead_letter]
topic = "{self.topic}-dead"
"""
        )
        log = self.folder / f"messina-{port}.log"
        with log.open("w") as out:
            messina = subprocess.Popen([os.environ["MESSINA_BIN"], "run", "--config", config], stdout=out, stderr=out)
        try:

            def all_dead():
                self.assertIsNone(messina.poll(), f"it has ended: {log.read_text()[-3000:]}")
                try:
                    return metric(address, "messina_dead_letters_total") >= RECORDS
                except OSError:
                    return False

            until(f"{RECORDS} dead letters", all_dead)
            # An event that waits for its answer is not counted yet.
            until("each failure to be counted", lambda: metric(address, "messina_sentry_events_total") == RECORDS)

            def events(outcome):
                return metric(address, f'messina_sentry_events_total{{outcome="{outcome}"}}')

            sent, failed, kept = events("sent"), events("failed"), events("suppressed") + events("dropped")
            began = time.monotonic()
            messina.send_signal(signal.SIGTERM)
            self.assertEqual(messina.wait(timeout=120), 0, log.read_text()[-3000:])
            print(f"stopped in {time.monotonic() - began:.1f} s; {sent:.0f} events sent, {failed:.0f} failed, {kept:.0f} held back")
            for secret in SECRETS:
                self.assertNotIn(secret, log.read_text())
            return sent, failed, kept
        finally:
            if messina.poll() is None:
                messina.kill()
                messina.wait()

    def test_one_fault_is_one_issue(self):
        self.poison()
        port = free_port()
        bugsink = subprocess.Popen(["bash", HERE / "bugsink", "run", self.folder / "bugsink", str(port)])
        self.addCleanup(bugsink.wait)
        self.addCleanup(bugsink.terminate)

        def answers():
            self.assertIsNone(bugsink.poll(), "bugsink has ended")
            try:
                return get(f"http://127.0.0.1:{port}/accounts/login/")
            except OSError:
                return None

        until("bugsink to answer", answers)
        dsn = (self.folder / "bugsink/dsn").read_text().strip()
        sent, failed, kept = self.run_poisoned(dsn)
        self.assertGreaterEqual(sent, 1)
        self.assertEqual((failed, sent + kept), (0, RECORDS), "each failure is sent, suppressed or dropped")

        found = json.loads(subprocess.run(["bash", HERE / "bugsink", "query", self.folder / "bugsink"], capture_output=True, text=True, check=True).stdout)
        self.assertEqual(found["issues"], 1, found)
        self.assertEqual(len(found["events"]), sent)
        self.assertLess(sent, 20)
        event = found["events"][0]
        self.assertTrue(event["release"].startswith("messina@"), event["release"])
        self.assertEqual(event["environment"], "tests")
        self.assertEqual(event["tags"]["pipeline"], "poisoned")
        self.assertEqual(event["tags"]["class"], "permanent")
        self.assertEqual(event["tags"]["topic"], self.topic)
        self.assertIn("step", event["tags"])
        # What the log said about the pipeline before: at least the line that names the record.
        lines = event["data"]["breadcrumbs"]["values"]
        self.assertTrue(lines)
        for line in lines:
            self.assertIn(line["level"], ("warning", "error"), line)
        self.assertRegex(lines[-1]["message"], "^dead letter: ")
        self.assertLessEqual({"topic", "partition", "offset", "reason"}, set(lines[-1]["data"]))
        text = json.dumps(found)
        for secret in (*SECRETS, dsn.split("@")[0].split("//")[1]):
            self.assertNotIn(secret, text)

    def test_a_dead_dsn_holds_nothing_up(self):
        self.poison()
        # The system accepts connections to the second one, and nobody ever answers.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            for port in (free_port(), silent.getsockname()[1]):
                sent, failed, kept = self.run_poisoned(f"http://0123456789abcdef0123456789abcdef@127.0.0.1:{port}/1")
                self.assertGreaterEqual(failed, 1)
                self.assertEqual((sent, failed + kept), (0, RECORDS))


if __name__ == "__main__":
    unittest.main()
