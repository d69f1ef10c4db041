"""How far the model of `messina size` is from what pipelines cost: each is run on the CQL stand-in, and asked about.

usage: sizing.py ROUNDS

Of the rounds the least counts: a machine with neighbours has two speeds, and they are not the model's. The machine's own factor is taken out first, as docs/sizing.md tells users to: it is the median of measured over estimated. Prints a table (stderr)
and, last, one JSON line; ends with 1 where the sum is off by more than 20 %. DIVIDE: by how much fewer records a run has.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import scale  # topics of other sizes, and the loader

HERE = pathlib.Path(__file__).resolve().parent
E = os.environ
# The highest error of the model, in per cent.
WORST = 20
BASE = (HERE / "peers.toml").read_text(encoding="utf-8")
HEAD, _, REST = BASE.partition("[[pipelines.events.steps]]")
STEPS, _, SINK = REST.partition("[pipelines.events.sink]")
LOOKUP, _, WRITE = STEPS.partition("[[pipelines.events.steps]]")
LOOKUP, WRITE, SINK = ("[[pipelines.events.steps]]" + LOOKUP, "[[pipelines.events.steps]]" + WRITE, "[pipelines.events.sink]" + SINK)
BARE = SINK.partition("set =")[0] + 'set = { processed_at = "now()" }\n'
CACHED = LOOKUP.replace("on_missing", 'cache = { ttl = "1h", missing_ttl = "1h", max_bytes = "32MiB" }\non_missing')
GROUPED = WRITE.rstrip() + '\ngroup = { across_partitions = true, max_bytes = "64KiB" }\n\n'
RICH = 617


def settings():
    """(label, configuration, topic, bytes, records, output topic, milliseconds of the database, records in flight)"""
    plain, grouped = HEAD + LOOKUP + WRITE + SINK, HEAD + CACHED + GROUPED + SINK
    for label, config, n in (
        ("read alone", HEAD, 390_000),
        ("publish", HEAD + BARE, 390_000),
        ("look-up", HEAD + LOOKUP, 190_000),
        ("write", HEAD + WRITE, 190_000),
        ("look-up, write, publish", plain, 190_000),
        ("cached, write, publish", HEAD + CACHED + WRITE + SINK, 390_000),
        ("cached, grouped, publish", grouped, 390_000),
    ):
        yield label, config, "events-bulk", RICH, n, "events-enriched-rich", 0, 512
    for ms, in_flight in ((1, 512), (5, 1024), (12, 2048), (40, 4096)):
        yield f"look-up, write, publish, {ms} ms", plain, "events-bulk", RICH, 250_000, "events-enriched-rich", ms, in_flight
    yield "cached, grouped, publish, 12 ms", grouped, "events-bulk", RICH, 300_000, "events-enriched-rich", 12, 2048
    for bytes_, records in ((100, 400_000), (1_000, 200_000), (10_000, 40_000)):
        topic = f"events-words-{bytes_}"
        scale.fill(topic, 20, records, scale.flat(bytes_, records))
        yield f"plain, {bytes_} bytes", scale.flat_config(), topic, bytes_, records * 95 // 100, "events-enriched-flat", 0, 512


def measured(label, config, topic, n, out, ms, in_flight):
    scale.run(label, n, CONFIG=config, IN_TOPIC=topic, OUT_TOPIC=out, STUB_DELAY_US=str(1000 * ms), STUB_P95_US=str(2500 * ms), MAX_IN_FLIGHT=str(in_flight))
    with open(E["RESULTS"], encoding="utf-8") as file:
        return json.loads(file.readlines()[-1])


def estimated(config, bytes_, hit_ratio, ms):
    command = [E["MESSINA_BIN"], "size", "-c", config, "--json", "--rate", "1000", "--bytes", str(bytes_), "--hit-ratio", str(hit_ratio), "--store-latency", f"{ms}ms"]
    # Warnings go to stderr.
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)["events"]["cpu_us"]


def main(rounds):
    all_, runs, sums = list(settings()), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            for number, (label, text, topic, bytes_, n, out, ms, in_flight) in enumerate(all_):
                config = os.path.join(folder, f"{number}.toml")
                pathlib.Path(config).write_text(text, encoding="utf-8")
                line = measured(label, config, topic, n, out, ms, in_flight)
                runs.setdefault(label, []).append(line["cpu_us_per_msg_2nd_half"])
                sums[label] = estimated(config, bytes_, round(line.get("cache_hit_ratio", 0.0), 4), ms)
    us = {label: min(values) for label, values in runs.items()}
    machine = statistics.median(us[label] / sums[label] for label in us)
    print(f"the machine's factor: {machine:.2f}", file=sys.stderr)
    print("| pipeline | measured µs | estimated µs | off |\n| --- | --- | --- | --- |", file=sys.stderr)
    off = {}
    for label in us:
        there = sums[label] * machine
        off[label] = 100 * (there / us[label] - 1)
        print(f"| {label} | {us[label]:.2f} | {there:.2f} | {off[label]:+.0f} % |", file=sys.stderr)
    worst = max(map(abs, off.values()))
    print(json.dumps({"figure": "sizing", "rounds": rounds, "machine": round(machine, 3), "worst_percent": round(worst, 1), "off_percent": {k: round(v, 1) for k, v in off.items()}}))
    if worst > WORST:
        sys.exit(f"the model is off by more than {WORST} %")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    main(int(sys.argv[1]))
