"""What Messina costs under little load: CPU without records, and latency at 1,000 records/s with and without the producer's linger.

usage: quiet.py ROUNDS      the last line is JSON

Latency is from consumed to acknowledged. `linger_adds_p99_ms` is what the default linger adds to the p99 of a producer that sends at once.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
E = os.environ
sys.path[:0] = [str(HERE.parent / "tail_latency"), os.path.join(E["PEERS"], "tools")]
import bench  # noqa: E402  the peers' harness
import load  # noqa: E402
import measure  # noqa: E402
from tail import Load, OUT, TOPIC  # noqa: E402

IDLE, LOADED, RATE = 20, 15, 1000


def config(linger):
    text = (HERE / "peers.toml").read_text(encoding="utf-8")
    return text.replace(', "linger.ms" = 5', "" if linger is None else f', "linger.ms" = {linger}')


def started(linger):
    with tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False) as file:
        file.write(config(linger))
    E["CONFIG"] = file.name
    messina = measure.Run(bench, E["STUB_ADDR"], TOPIC, OUT, f"quiet-{time.time_ns()}", os.path.join(E["PEERS_BUILD"], "run-quiet.log"))
    messina.wait_until_ready(60)
    return messina


def fresh():
    for topic in (TOPIC, OUT):
        bench.fresh_topic(topic, 20)


def idle():
    fresh()
    messina = started(None)
    time.sleep(5)
    first = messina.sample()
    time.sleep(IDLE)
    last = messina.sample()
    messina.stop()
    return 100 * (last[1] - first[1]) / (last[0] - first[0])


def latency(linger, sid):
    fresh()
    messina, records = started(linger), Load(RATE, sid)
    records.start()
    try:
        time.sleep(4)
        first = messina.sample()
        buckets = messina.buckets
        time.sleep(LOADED)
        last = messina.sample()
        p50, p99 = measure.quantiles(buckets, messina.buckets, (0.5, 0.99))
    finally:
        records.over.set()
        messina.stop()
    return {"p50_ms": p50, "p99_ms": p99, "cpu_us": (last[1] - first[1]) * 1e6 / (last[2] - first[2])}


def main(rounds):
    sid = load.register("events-value", os.path.join(E["PEERS"], "schema", "event.avsc"))
    bench.stub()
    idles, found = [], {"default": [], "0": []}
    for _ in range(rounds):
        idles.append(idle())
        for name, linger in (("default", None), ("0", 0)):
            found[name].append(latency(linger, sid))
            print(f"linger {name}: {found[name][-1]}, idle {idles[-1]:.2f} %", file=sys.stderr)
    middle = {name: {k: round(statistics.median(r[k] for r in runs), 2) for k in runs[0]} for name, runs in found.items()}
    # The best round, because other load on the machine can only make both slower.
    least = {name: min(r["p99_ms"] for r in runs) for name, runs in found.items()}
    line = {"figure": "quiet", "idle_cpu_percent": round(min(idles), 2), "at_1000_a_second": middle, "linger_adds_p99_ms": round(least["default"] - least["0"], 2)}
    print(json.dumps(line))


if __name__ == "__main__":
    main(int(sys.argv[1]))
