"""Where the CPU of a record goes, from what perf has sampled: shares by thread and by whose code it was.

usage: perf record -e cpu-clock -F 1999 -p PID -o DATA -- sleep 10     while benches/e2e/measure.py runs
       shares.py DATA [CPU_US]      a table; with the cost of a record, in µs of it

What is copied, allocated and asked of the clock is counted by itself, whoever did it.
"""

import re
import subprocess
import sys

THREADS = [("loop-", "loop"), ("rdk:", "librdkafka's threads"), ("deliveries", "delivery reports")]
KINDS = [
    (r"\[k\]", "kernel"),
    (r"memmove|memcpy|memset|memcmp", "copying"),
    (r"clock_gettime|Timespec|time::Instant", "clock"),
    (r"\bmi_|_mi_|malloc|calloc|realloc|_int_free|\bcfree|RawVec|alloc::", "allocation"),
    (r"LZ4|XXH", "LZ4"),
    (r"messina::avro", "Avro"),
    (r"messina::store", "store: binding, rows"),
    (r"messina::|Event", "Messina: loop, steps, events"),
    (r"scylla|arc_swap|hashbrown|RequestSpan|tracing|histogram|siphash|sip::", "CQL driver"),
    (r"tokio|futures|core::future", "Tokio"),
    (r"rd_|rdkafka|crc32c|pthread|librdkafka", "librdkafka, its locks"),
]


def main(data, cost=None):
    report = subprocess.run(
        ["perf", "report", "-i", data, "--no-children", "-g", "none", "--sort", "comm,sym", "--percent-limit", "0.0", "-F", "overhead,comm,sym"],
        capture_output=True, text=True, check=True,
    ).stdout
    table, total = {}, 0.0
    for line in report.splitlines():
        match = re.match(r"\s*([0-9.]+)%\s+(\S.*?)\s{2,}(\[.*)$", line)
        if not match:
            continue
        share, comm, symbol = float(match[1]), match[2], match[3]
        thread = next((name for start, name in THREADS if comm.startswith(start)), "other threads")
        kind = next((name for pattern, name in KINDS if re.search(pattern, symbol)), "other")
        table[thread, kind] = table.get((thread, kind), 0) + share
        total += share
    print("| thread | code | share |" + (" µs |" if cost else ""))
    print("| --- | --- | --- |" + (" --- |" if cost else ""))
    for (thread, kind), share in sorted(table.items(), key=lambda item: -item[1]):
        if share / total >= 0.004:
            print(f"| {thread} | {kind} | {share / total:.1%} |" + (f" {share / total * float(cost):.2f} |" if cost else ""))


if __name__ == "__main__":
    main(*sys.argv[1:]) if 2 <= len(sys.argv) <= 3 else sys.exit(__doc__)
