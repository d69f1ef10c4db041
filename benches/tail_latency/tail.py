"""A steady load, and a store that is 16 times slower at p95 in the middle of it.

usage: tail.py SECONDS RATE STACK...     STACK: messina-LIMIT, messina-auto, rust-talk, go; inline, deferred: deferred.rs, decoding in its loop or in tasks

Once a second it reads: how long the consumer loop had a record (poll to decoded, the stage that a slow database must not touch), how long records took
in all, how many are in flight (Messina, from its metrics); how many records came out (all, from the output topic). Figures compare the slow phase
with the one before it; the first seconds of a phase count for it.
"""

import json
import os
import pathlib
import re
import statistics
import struct
import subprocess
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

E = os.environ
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e"), os.path.join(E["PEERS"], "tools")]
import bench  # noqa: E402  the peers' harness
import load  # noqa: E402
import measure  # noqa: E402
import plot  # noqa: E402

PARTITIONS = 20
TOPIC, OUT = "events-tail", "events-tail-out"
# Median and p95 of the store's answer times in µs, in the calm and in the slow phase.
CALM, SLOW = (1_000, 2_000), (1_000, 32_000)
DECODE = re.compile(r'^messina_stage_seconds_bucket\{(?=[^}]*stage="decode")[^}]*le="([^"]+)"[^}]*\} ([0-9.e+]+)$', re.M)
IN_FLIGHT = re.compile(r"^messina_in_flight_records\{[^}]*\} ([0-9.e+]+)$", re.M)
TIME = re.compile(r"^messina_event_seconds_(sum|count)\{[^}]*\} ([0-9.e+-]+)$", re.M)
# Seconds within which a stack must join its group and publish what five seconds of the load bring.
WARM = 120
LIMIT = re.compile(r"^messina_concurrency_limit\{[^}]*\} ([0-9.e+]+)$", re.M)


class Load(threading.Thread):
    """Sends the peers' messages at a steady rate until it is stopped."""

    def __init__(self, rate, sid):
        super().__init__(daemon=True)
        self.rate, self.over = rate, threading.Event()
        head = b"\0" + struct.pack(">I", sid)
        self.messages = [(key, head + datum) for key, datum in load.read(os.path.join(E["PEERS_BUILD"], "messages.bin"))]

    def run(self):
        producer = Producer({"bootstrap.servers": E["KAFKA_BOOTSTRAP"], "linger.ms": 1, "partitioner": "murmur2_random"})
        began, sent = time.monotonic(), 0
        while not self.over.wait(0.005):
            due = int((time.monotonic() - began) * self.rate)
            while sent < due:
                key, value = self.messages[sent % len(self.messages)]
                producer.produce(TOPIC, value, key)
                sent += 1
            producer.poll(0)
        producer.flush()


class Counter:
    """Counts the records of a topic."""

    def __init__(self, topic):
        self.topic = topic
        self.consumer = Consumer({"bootstrap.servers": E["KAFKA_BOOTSTRAP"], "group.id": "tail-count", "enable.auto.commit": False})

    def __call__(self):
        return sum(self.consumer.get_watermark_offsets(TopicPartition(self.topic, p), timeout=10)[1] for p in range(PARTITIONS))


def peer_settings(name, **more):
    """The environment of a stack that is configured like the peers."""
    return dict(E, IN_TOPIC=TOPIC, OUT_TOPIC=OUT, GROUP=f"tail-{name}-{time.time_ns()}", CQL_CONTACT=E["STUB_ADDR"], MAX_IN_FLIGHT="512", **more)


def delay(us_p95):
    bench.http(f"http://{E['STUB_ADMIN']}/delay?us={us_p95[0]}&p95={us_p95[1]}")


class Messina:
    def __init__(self, limit):
        E["MAX_IN_FLIGHT"] = limit
        log = os.path.join(E["PEERS_BUILD"], f"tail-messina-{limit}.log")
        self.run = measure.Run(bench, E["STUB_ADDR"], TOPIC, OUT, f"tail-messina-{time.time_ns()}", log)
        self.run.wait_until_ready(60)
        self.decode, self.event, self.time = {}, {}, {}

    def sample(self):
        self.run.alive()
        _, text = measure.get(self.run.port, "/metrics")
        before = self.decode, self.event, self.time
        self.time = {what: float(value) for what, value in TIME.findall(text)}
        self.decode, self.event = measure.summed(DECODE, text), measure.summed(measure.BUCKET, text)
        return {
            "in_flight": sum(map(float, IN_FLIGHT.findall(text))),
            "limit": sum(map(float, LIMIT.findall(text))),
            "consumer": (before[0], self.decode),
            "event": (before[1], self.event),
            "time": (before[2], self.time),
        }

    def stop(self):
        self.run.stop()


class Peer:
    def __init__(self, name):
        command, extra = bench.COMMANDS[name]
        env = peer_settings(name, N="1000000000", STACK=name, **extra)
        if name == "rust-talk":
            env["N"] = "1000000"  # the peer keeps a sample of each record
        with open(os.path.join(E["PEERS_BUILD"], f"tail-{name}.log"), "wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def sample(self):
        if self.process.poll() is not None:
            sys.exit(f"the peer ended with {self.process.returncode}")
        return {}

    def stop(self):
        self.process.kill()
        self.process.wait()


class Decoder(Peer):
    """deferred.rs, which prints once a second how long it took until records were decoded."""

    def __init__(self, mode):
        self.lines, self.decoded = os.path.join(E["PEERS_BUILD"], f"tail-{mode}.jsonl"), {}
        env = peer_settings(mode, MODE=mode, SCHEMA=os.path.join(E["PEERS"], "schema", "event.avsc"))
        with open(self.lines, "wb") as out:
            self.process = subprocess.Popen([E["DEFERRED_BIN"]], env=env, stdout=out)

    def sample(self):
        super().sample()
        whole = pathlib.Path(self.lines).read_text(encoding="utf-8").rpartition("\n")[0]
        before, self.decoded = self.decoded, json.loads(whole.rpartition("\n")[2] or "{}")
        return {"consumer": (before, self.decoded)}


def between(samples, what, q):
    """A quantile over a whole phase, in milliseconds."""
    first, last = samples[0][what][0], samples[-1][what][1]
    return measure.quantiles(first, last, (q,))[0]


def little(samples):
    first, last = samples[0]["time"][0], samples[-1]["time"][1]
    seconds = samples[-1]["at"] - samples[0]["at"] + 1
    return (last["sum"] - first["sum"]) / seconds


def measured(name, seconds, rate, sid):
    for topic in (TOPIC, OUT):
        bench.fresh_topic(topic, PARTITIONS)
    delay(CALM)
    kind, _, limit = name.partition("-")
    load_thread = Load(rate, sid)
    runs = Messina(limit or "512") if kind == "messina" else (Decoder if name in ("inline", "deferred") else Peer)(name)
    out, samples = Counter(OUT), []
    try:
        load_thread.start()
        end = time.monotonic() + WARM
        while out() < 5 * rate:  # until it has joined its group and is warm
            runs.sample()  # fails if the stack has ended
            if time.monotonic() > end:
                sys.exit(f"{name}: {out()} records after {WARM} s, and not {5 * rate}")
            time.sleep(0.2)
        runs.sample()
        last, began = out(), time.monotonic()
        for phase in ("before", "during", "after"):
            delay(SLOW if phase == "during" else CALM)
            for _ in range(seconds):
                time.sleep(max(0, began + len(samples) + 1 - time.monotonic()))
                now = out()
                samples.append({"phase": phase, "out": now - last, "at": time.monotonic() - began, **runs.sample()})
                last = now
    finally:
        load_thread.over.set()
        runs.stop()
        delay((0, 0))
    phases = {phase: [s for s in samples if s["phase"] == phase] for phase in ("before", "during", "after")}
    line = {"stack": name, "rate": {p: round(statistics.mean(s["out"] for s in of)) for p, of in phases.items()}}
    line["rate_ratio"] = round(line["rate"]["during"] / line["rate"]["before"], 3)
    for what in ("consumer", "event"):
        if what in samples[0]:
            for q in (0.5, 0.95, 0.99):
                line[f"{what}_p{q * 100:.0f}_ms"] = {p: round(between(of, what, q), 4) for p, of in phases.items()}
    if "consumer_p95_ms" in line:
        line["consumer_p95_ratio"] = round(line["consumer_p95_ms"]["during"] / line["consumer_p95_ms"]["before"], 3)
    if kind == "messina":
        line["in_flight"] = {p: round(statistics.mean(s["in_flight"] for s in of)) for p, of in phases.items()}
        # By Little's law, the number in flight is records per second times the mean time of one.
        line["little"] = {p: round(little(of)) for p, of in phases.items()}
        line["limit"] = {p: round(of[-1]["limit"]) for p, of in phases.items()}
    line["series"] = [shown(s) for s in samples]
    return line


def shown(sample):
    """The values of one second that are drawn."""
    of = {"at": round(sample["at"], 1), "phase": sample["phase"], "out": sample["out"]}
    for what, places in (("consumer", 4), ("event", 2)):
        if what in sample and max(sample[what][1].values(), default=0) > max(sample[what][0].values(), default=0):
            of[f"{what}_p95_ms"] = round(measure.quantiles(*sample[what], (0.95,))[0], places)
    if "in_flight" in sample:
        of["in_flight"] = sample["in_flight"]
    return of


def main(seconds, rate, stacks):
    sid = load.register("events-value", os.path.join(E["PEERS"], "schema", "event.avsc"))
    bench.stub()
    lines = []
    for name in stacks:
        print(f"{name}: {3 * seconds} s at {rate} records/s", file=sys.stderr)
        lines.append(measured(name, seconds, rate, sid))
    results = pathlib.Path(E["PEERS_BUILD"], "tail.jsonl")
    results.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    picture = E.get("PLOT") or str(results.with_suffix(".svg"))
    pathlib.Path(picture).write_text(plot.draw(lines), encoding="utf-8")
    print(f"store: median {CALM[0] / 1e3} ms, p95 {CALM[1] / 1e3} ms; slow: p95 {SLOW[1] / 1e3} ms; series: {results}; plot: {picture}", file=sys.stderr)
    print("| stack | | before | slow | after |\n| --- | --- | --- | --- | --- |", file=sys.stderr)
    for line in lines:
        for key, values in line.items():
            if isinstance(values, dict):
                print(f"| {line['stack']} | {key} | " + " | ".join(str(values[p]) for p in ("before", "during", "after")) + " |", file=sys.stderr)
    first = lines[0]
    figure = {"figure": "tail", "consumer_p95_ratio": first.get("consumer_p95_ratio"), "rate_ratio": first["rate_ratio"]}
    for line in lines:
        figure[line["stack"]] = {k: line[k] for k in ("consumer_p95_ratio", "rate_ratio") if k in line}
    print(json.dumps(figure))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
