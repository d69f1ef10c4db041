"""Adds up what the fault tests noted ($MESSINA_FIGURES: a line of JSON for each test), and prints one line of JSON.

Counts are sums over all tests, the slope is the worst of all, and `resume_s` is the time from the thaw of the frozen database to the next record. `tests` has
what each test noted.
"""

import json
import sys


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        notes = [json.loads(line) for line in file]
    tests = {note["test"]: note["figures"] for note in notes}
    if not tests:
        sys.exit("no test has noted anything")

    def every(name):
        return [figures[name] for figures in tests.values() if name in figures]

    records = sum(every("records"))
    # Not every test compares its output: those that do not must not lower the share.
    compared = [f for f in tests.values() if "duplicated_percent" in f]
    duplicated = sum(f["records"] * f["duplicated_percent"] for f in compared)
    of = sum(f["records"] for f in compared)
    line = {name: sum(every(name)) for name in ("lost", "out_of_order", "unfinished_commits", "dead_lettered_wrongly")}
    line |= {
        "duplicated_percent": round(duplicated / of, 4) if of else None,
        "resume_s": max(every("resume_s"), default=None),
        "rss_slope_mb_per_min": max(every("rss_slope_mb_per_min"), default=None),
        "records": records,
        "long": all(note["long"] for note in notes),
        "tests": tests,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
