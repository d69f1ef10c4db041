"""What an unreachable Sentry costs a stream of bad records only: the process's instructions by callgrind, and Sentry's share of them.

Sentry is unreachable in two ways: it refuses connections, or accepts them and never answers. The one-time set-up of the client is shown separately. The
kernel's instructions are not counted, neither Sentry's few nor the stream's many, so Sentry's real share of the CPU is smaller. Needs valgrind,
KAFKA_BROKERS, REGISTRY_URL and MESSINA_BIN. The last line of the output is JSON.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/operate"))

import operate  # noqa: E402
import test_sentry  # noqa: E402

# Under valgrind everything takes fifty times as long.
operate.LONG = 1200
RECORDS = 20_000


class Ground(test_sentry.Sentry):
    """A run of bad records under callgrind, with the folder, topics and records of the test."""

    def runTest(self):
        self.poison()
        shares = {}
        with socket.create_server(("127.0.0.1", 0)) as silent:
            for way, port in (("refused", operate.free_port()), ("silent", silent.getsockname()[1])):
                counted = self.folder / f"callgrind.{way}"
                wrapper = self.folder / "messina"
                wrapper.write_text(f'#!/bin/sh\nexec valgrind --quiet --tool=callgrind --callgrind-out-file={counted} {binary} "$@"\n')
                wrapper.chmod(0o755)
                os.environ["MESSINA_BIN"] = str(wrapper)
                self.run_poisoned(f"http://0123456789abcdef0123456789abcdef@127.0.0.1:{port}/1")
                shares[way] = share(counted)
        figures.update({f"{way}_{name}": value for way, one in shares.items() for name, value in one.items()})


def share(counted):
    text = subprocess.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", counted], capture_output=True, text=True, check=True).stdout
    lines = [(int(found[1].replace(",", "")), found[2]) for found in re.finditer(r"^ *([\d,]+) \([^)]*\) +(.*)$", text, re.M)]

    def of(pattern):
        # A function that is partly inlined has several lines, and the one of the whole function comes first. All functions that are looked up run in both
        # ways of being dead, so each must be found: one that the compiler has inlined everywhere, or that was renamed, would count as free.
        found = next((count for count, name in lines if re.search(pattern, name)), None)
        return found if found is not None else sys.exit(f"{counted} has no function {pattern}")

    total, setting_up = of("PROGRAM TOTALS"), of(r":messina::telemetry::sentry::Sentry::init")
    sentry = of(r":messina::telemetry::sentry::Sentry::report") + of(r":messina::telemetry::sentry::transport::Worker::")
    return {
        "percent": round(100 * sentry / (total - setting_up), 2),
        "instructions_per_record": round(sentry / RECORDS),
        "of_instructions_per_record": round((total - setting_up) / RECORDS),
    }


figures = {}
binary = os.environ["MESSINA_BIN"]
test_sentry.RECORDS = RECORDS
if __name__ == "__main__":
    import unittest

    result = unittest.TextTestRunner(stream=sys.stderr).run(Ground())
    if not result.wasSuccessful():
        sys.exit(1)
    print(json.dumps(figures))
