"""One run of Messina over the peers' job, measured as the peers' own harness measures theirs; and the summary of many runs.

usage: measure.py run stub|cassandra [OVERLAY]   one JSON line, in the form of the peers' bench.py; OVERLAY is a name: cached for cached.toml
       measure.py stack NAME stub|cassandra             the same for any stack: messina, messina-OVERLAY, or a peer
       measure.py summary RESULTS                one JSON line: medians and the ratio, from the lines of both

CPU is the whole process's, from /proc: from when /readyz first says ready to when `messina_records_total`, over all outcomes, has grown by N. It is
divided by the records that were counted between these two readings, since Messina neither starts nor stops at a record of our choice. What it
used before is start-up and stands apart. `norm_*` is scaled by the peers' calibration, a fixed piece of work that is timed beside the run.
Environment: that of the peers' env.sh, MESSINA_BIN, and the peers' N, IN_TOPIC, OUT_TOPIC, MAX_IN_FLIGHT, CALIB_REF_MS, TIMEOUT, RESULTS.
"""

import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
E = os.environ
COUNTED = re.compile(r"^messina_records_total\{[^}]*\} ([0-9.e+]+)$", re.M)
BUCKET = re.compile(r'^messina_event_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} ([0-9.e+]+)$', re.M)
CACHE = re.compile(r"^messina_cache_(hits|misses|coalesced)_total\{[^}]*\} ([0-9.e+]+)$", re.M)
PARTS = {"loop-": "loop", "rdk:": "librdkafka", "deliveries": "deliveries"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def by_part(pid):
    """CPU seconds of the process, by the work of its threads."""
    parts = dict.fromkeys([*PARTS.values(), "other"], 0.0)
    for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            head, _, tail = stat.read_text(encoding="utf-8").rpartition(")")
        except OSError:  # a thread that has ended
            continue
        name, fields = head.partition("(")[2], tail.split()
        part = next((part for start, part in PARTS.items() if name.startswith(start)), "other")
        parts[part] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return parts


def summed(pattern, text):
    """Sums over all pipelines and steps."""
    sums = {}
    for what, n in pattern.findall(text):
        sums[what] = sums.get(what, 0) + float(n)
    return sums


def quantiles(before, after, wanted):
    """Quantiles in milliseconds, interpolated within a bucket, of the observations between two readings of a histogram."""
    counts = sorted((float(le), after[le] - before.get(le, 0)) for le in after)
    total, result = counts[-1][1], []
    for q in wanted:
        low, below = 0.0, 0
        for bound, count in counts:
            if count >= q * total:
                high = low if bound == float("inf") else bound
                part = (q * total - below) / max(1, count - below)
                result.append(1e3 * (low + (high - low) * part))
                break
            low, below = bound, count
    return result


def get(port, path):
    """(status, text); status 0 if there is no answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, ""
    except OSError:
        return 0, ""


class Run:
    """The process, and its measurements from outside."""

    def __init__(self, bench, contact, in_topic, out_topic, group, log, overlays=()):
        self.bench, self.port, self.log = bench, free_port(), log
        settings = {
            "KAFKA__BROKERS": E["KAFKA_BOOTSTRAP"],
            "REGISTRY__URL": E["REGISTRY_URL"],
            "SCYLLA__NODES": contact,
            "SCYLLA__DATACENTER": E["CQL_DC"],
            "HTTP__LISTEN": f"127.0.0.1:{self.port}",
            "PIPELINES__EVENTS__SOURCE__TOPICS": in_topic,
            "PIPELINES__EVENTS__SOURCE__GROUP": group,
            "PIPELINES__EVENTS__MAX_IN_FLIGHT": E.get("MAX_IN_FLIGHT", "512"),
        }
        config = pathlib.Path(E.get("CONFIG", HERE / "peers.toml"))
        if ".sink]" in config.read_text(encoding="utf-8"):
            settings["PIPELINES__EVENTS__SINK__TOPIC"] = out_topic
        command = [E["MESSINA_BIN"], "run", "-c", str(config)]
        for overlay in overlays:
            command += ["-c", str(overlay)]
        # The caller's settings have priority.
        env = {**{f"MESSINA__{k}": v for k, v in settings.items()}, **E}
        with open(log, "wb") as out:
            self.process = subprocess.Popen(E.get("WRAP", "").split() + command, env=env, stdout=out, stderr=out)

    def alive(self):
        if self.process.poll() is not None:
            sys.exit(f"messina ended with {self.process.returncode}, see {self.log}")

    def sample(self):
        """(seconds, CPU seconds, records) as of now."""
        status, text = get(self.port, "/metrics")
        if status != 200:
            self.alive()
            sys.exit(f"/metrics answers {status}")
        self.parts = by_part(self.process.pid)
        self.buckets, self.cache = summed(BUCKET, text), summed(CACHE, text)
        return time.monotonic(), self.bench.cpu(self.process.pid), sum(float(n) for n in COUNTED.findall(text))

    def wait_until_ready(self, seconds):
        end = time.monotonic() + seconds
        while get(self.port, "/readyz")[0] != 200:
            self.alive()
            if time.monotonic() > end:
                sys.exit(f"not ready after {seconds} s, see {self.log}")
            time.sleep(0.02)

    def high_water(self):
        """The most memory that it has used, in MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


def run(target, overlay=None):
    sys.path.insert(0, os.path.join(E["PEERS"], "tools"))
    import bench  # the peers' harness: it knows the stub, the topics, and the calibration

    n = int(E.get("N", "100000"))
    in_topic = E.get("IN_TOPIC") or ("events-bulk" if n > 100_000 else "events")
    out_topic = E.get("OUT_TOPIC") or "events-enriched-messina"
    group = E.get("GROUP") or f"enrich-messina-{time.time_ns() // 10**6}"
    stack = "messina" if overlay is None else f"messina-{overlay}"
    contact = {"stub": E["STUB_ADDR"], "cassandra": E["CASSANDRA_CONTACT"]}[target]
    if target == "stub":
        bench.stub()
    bench.fresh_topic(out_topic, int(E.get("PARTITIONS", "20")))
    started = time.monotonic()
    messina = Run(bench, contact, in_topic, out_topic, group, os.path.join(E["PEERS_BUILD"], f"run-{stack}-{target}.log"), [HERE / f"{overlay}.toml"] if overlay else [])
    try:
        messina.wait_until_ready(120)
        first = half = last = messina.sample()
        parts, buckets, cache = messina.parts, messina.buckets, messina.cache
        limit, calibration = time.monotonic() + float(E.get("TIMEOUT", "900")), []
        while last[2] - first[2] < n:
            time.sleep(0.5)
            calibration.append(bench.calibrate())
            last = messina.sample()
            if last[2] - first[2] < n / 2:
                half = last
            if time.monotonic() > limit:
                sys.exit(f"timed out after {last[2]} records, see {messina.log}")
        memory = messina.high_water()
    finally:
        code = messina.stop()
    calib = statistics.mean(calibration)
    p50, p99 = quantiles(buckets, messina.buckets, (0.5, 0.99))
    asked = {what: n - cache.get(what, 0) for what, n in messina.cache.items()}
    scale = float(E.get("CALIB_REF_MS", "10")) / calib

    def per_record(a, b):
        return (b[1] - a[1]) * 1e6 / max(1, b[2] - a[2])

    line = {
        "stack": stack,
        **({"label": E["LABEL"]} if "LABEL" in E else {}),
        "target": target,
        "messages": last[2] - first[2],
        "wall_s": last[0] - first[0],
        "startup_s": first[0] - started,
        "startup_cpu_s": first[1],
        "msgs_per_s": (last[2] - first[2]) / (last[0] - first[0]),
        "max_rss_mb": memory,
        "cpu_us_per_msg": per_record(first, last),
        "cpu_us_per_msg_2nd_half": per_record(half, last),
        "norm_cpu_us_per_msg": per_record(first, last) * scale,
        "norm_cpu_us_per_msg_2nd_half": per_record(half, last) * scale,
        "us_by_part": {k: round((v - parts[k]) * 1e6 / (last[2] - first[2]), 2) for k, v in messina.parts.items()},
        "e2e_p50_us": p50 * 1e3,
        "e2e_p99_us": p99 * 1e3,
        **({"cache_hit_ratio": (asked["hits"] + asked["coalesced"]) / sum(asked.values())} if any(asked.values()) else {}),
        "calib_ms": calib,
        "committed": bench.committed(group, in_topic, int(E.get("PARTITIONS", "20"))),
        "max_in_flight": int(E.get("MAX_IN_FLIGHT", "512")),
        "load1": os.getloadavg()[0],
        "exit_code": code,
    }
    text = json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()})
    if E.get("RESULTS"):
        with open(E["RESULTS"], "a", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)


# Number of records per run: enough for seconds of CPU, and for Java's compiler to settle.
RECORDS = {"messina": 200_000, "rust-talk": 100_000, "go": 100_000, "java": 200_000, "python": 20_000}


def stack(name, target):
    kind = name.partition("-")[0] if name.startswith("messina") else name
    n = RECORDS.get(kind, 100_000) // (1 if target == "stub" else 4) // int(E.get("DIVIDE", "1"))
    if name.startswith("messina"):
        # A cache is measured over the whole bulk topic, because it has to fill first.
        E["N"] = str(n if name == "messina" else 390_000 // int(E.get("DIVIDE", "1")))
        E["IN_TOPIC"] = "events-bulk"
        run(target, *name.split("-")[1:])
    else:
        env = {**E, "N": str(n), "IN_TOPIC": "events-bulk"}
        subprocess.run([E["PY"], os.path.join(E["PEERS"], "tools", "bench.py"), name, target], env=env, check=True)


def summary(path):
    with open(path, encoding="utf-8") as file:
        runs = [json.loads(line) for line in file]
    line = {"figure": "ratio", "unit": "CPU µs per record, whole process, scaled to the same machine speed"}
    ratios = []
    for target in dict.fromkeys(r["target"] for r in runs):
        by = {stack: [r for r in runs if r["target"] == target and r["stack"] == stack] for stack in ("rust-talk", "messina")}
        if not all(by.values()):
            sys.exit(f"{target}: not both were measured")
        medians = {k: {s: statistics.median(r[k] for r in rs) for s, rs in by.items()} for k in ("norm_cpu_us_per_msg", "cpu_us_per_msg")}
        norm, raw = medians["norm_cpu_us_per_msg"], medians["cpu_us_per_msg"]
        ratio = norm["messina"] / norm["rust-talk"]
        ratios.append(ratio)
        line[target] = {
            "rounds": min(map(len, by.values())),
            "messina_us": round(norm["messina"], 2),
            "rust_talk_us": round(norm["rust-talk"], 2),
            "ratio": round(ratio, 3),
            "ratio_not_scaled": round(raw["messina"] / raw["rust-talk"], 3),
            "messina_us_all": [round(r["norm_cpu_us_per_msg"], 2) for r in by["messina"]],
            "rust_talk_us_all": [round(r["norm_cpu_us_per_msg"], 2) for r in by["rust-talk"]],
            "messina_records_per_s": round(statistics.median(r["msgs_per_s"] for r in by["messina"])),
            "rust_talk_records_per_s": round(statistics.median(r["msgs_per_s"] for r in by["rust-talk"])),
            "messina_max_rss_mb": round(max(r["max_rss_mb"] for r in by["messina"]), 1),
            "rust_talk_max_rss_mb": round(max(r["max_rss_mb"] for r in by["rust-talk"]), 1),
        }
    print(json.dumps({**line, "ratio": round(max(ratios), 3)}, ensure_ascii=False))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", ("stub" | "cassandra") as target, *overlay]:
            run(target, *overlay)
        case ["stack", name, ("stub" | "cassandra") as target]:
            stack(name, target)
        case ["summary", path]:
            summary(path)
        case _:
            sys.exit(__doc__)
