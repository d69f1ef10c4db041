"""The runs of `run` as a table (stderr), and the figures as one JSON line.

usage: table.py compare|scale RESULTS

CPU is that of the whole process per record in the second half of a run, scaled to the speed that the calibration found at the time; the figures
are medians over the rounds, and `least` is the best round, unscaled.
"""

import json
import platform
import re
import statistics
import sys


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = re.findall(r"model name\s*:\s*(.*)", file.read())
    return f"{len(models)} × {models[0] if models else '?'}, Linux {platform.release()}"


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def median(runs, key):
    values = [r[key] for r in runs if r.get(key) is not None]
    return statistics.median(values) if values else float("nan")


def grouped(runs, key):
    groups = {}
    for r in runs:
        groups.setdefault(r[key], []).append(r)
    return groups


def print_table(groups):
    print(machine(), file=sys.stderr)
    print("| run | rounds | CPU µs/record | least | records/s per core | RSS MB | p50 ms | p99 ms | loop, librdkafka, deliveries, other |", file=sys.stderr)
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", file=sys.stderr)
    for name, runs in groups.items():
        us = median(runs, "norm_cpu_us_per_msg_2nd_half")
        parts = [r["us_by_part"] for r in runs if "us_by_part" in r]
        split = " + ".join(f"{statistics.median(p[k] for p in parts):.1f}" for k in parts[0]) if parts else ""
        least = min(r["cpu_us_per_msg_2nd_half"] for r in runs)
        print(
            f"| {name} | {len(runs)} | {us:.1f} | {least:.1f} | {1e6 / us:,.0f} | {max(r['max_rss_mb'] for r in runs):.0f} "
            f"| {median(runs, 'e2e_p50_us') / 1e3:.1f} | {median(runs, 'e2e_p99_us') / 1e3:.1f} | {split} |",
            file=sys.stderr,
        )


def compare(path):
    groups = grouped(read(path), "stack")
    print_table(groups)
    us = {name: median(runs, "norm_cpu_us_per_msg_2nd_half") for name, runs in groups.items()}
    line = {"figure": "e2e", "unit": "CPU µs per record, whole process, scaled to the same machine speed; vs: how many times as much"}
    if "messina" in us:
        line["cpu_us_plain"] = round(us["messina"], 2)
        line["cpu_us_plain_least"] = min(r["cpu_us_per_msg_2nd_half"] for r in groups["messina"])
        line["rss_mb"] = round(max(r["max_rss_mb"] for r in groups["messina"]))
    for job in ("cached", "grouped"):
        if f"messina-{job}" in us:
            line[f"cpu_us_{job}"] = round(us[f"messina-{job}"], 2)
    for peer in ("rust-talk", "go", "java", "python"):
        if peer in us and "messina" in us:
            line[f"vs_{peer.replace('-', '_')}"] = round(us[peer] / us["messina"], 2)
    print(json.dumps(line, ensure_ascii=False))


def scale(path):
    groups = grouped(read(path), "label")
    print_table(groups)
    us = {name: round(median(runs, "norm_cpu_us_per_msg_2nd_half"), 2) for name, runs in groups.items()}
    print(json.dumps({"figure": "scale", "cpu_us": us}, ensure_ascii=False))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["compare", path]:
            compare(path)
        case ["scale", path]:
            scale(path)
        case _:
            sys.exit(__doc__)
