"""Plays a newcomer: types the commands of docs/get-started.md, block by block, and judges what comes of them.

What differs from a newcomer's machine is set by the caller: where the services are, names that nobody else uses, and, with --binary, a program that
is built already (it is copied into the clone in place of the build, and said so). Prints what it does, and last one JSON line with `minutes`,
`steps`, `failed_steps`. Exit 0 where no step failed. Standard library only; `python3` of the page is the Python that runs this.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "get-started.md"
# What a step must have said, by its heading.
SAYS = {
    "See it run": "20,000",
    "Draft the pipeline": "users.user_id <- event.user.id",
    "Check it": "the configuration is sound, and fits the live services",
    "Test it": "1 passed, 0 failed",
    "One record in, one record out": '"segment": "gold"',
    "Look at it": '"pipelines"',
}
# The longest that a step may take, a build from nothing included.
LIMIT = 3600


def steps():
    """(heading, commands) of each part of the page that has commands."""
    for part in re.split(r"^## \d+\. ", PAGE.read_text("utf-8"), flags=re.M)[1:]:
        heading = part.splitlines()[0].strip()
        blocks = re.findall(r"^```sh\n(.*?)^```", part, flags=re.M | re.S)
        if blocks:
            yield heading, "".join(blocks)


def free_port():
    """One below those from which outgoing connections take theirs: nobody gets it before it is listened on."""
    for port in random.sample(range(10_000, 17_000), 100):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("of a hundred ports none was free")


class Newcomer:
    def __init__(self, options, folder):
        self.options, self.folder, self.port = options, folder, free_port()
        self.running = None
        tools = folder / "bin"
        tools.mkdir()
        # A virtual environment knows itself by the path that it is called by, so a link would not do.
        (tools / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (tools / "python3").chmod(0o755)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("MESSINA", "CARGO", "RUST_LOG"))}
        self.environment |= {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "MESSINA": str(ROOT),
            "MESSINA__HTTP__LISTEN": f"127.0.0.1:{self.port}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def as_here(self, heading, commands):
        """The commands with this machine's places and names, and a build in place of which there is a program."""
        if heading == "Say where your services are":
            for name in ("KAFKA_BROKERS", "REGISTRY_URL", "SCYLLA_NODES"):
                commands = re.sub(rf"{name}=\S+", f"{name}={os.environ[name]}", commands)
            commands = re.sub(r"TOPIC=\S+ KEYSPACE=\S+", f"TOPIC={self.options.topic} KEYSPACE={self.options.keyspace}", commands)
        if heading == "Build" and self.options.binary:
            given = f"mkdir -p target/release && cp '{Path(self.options.binary).resolve()}' target/release/messina"
            commands = commands.replace("cargo build --release --locked", given)
        return commands.replace("localhost:9090", f"127.0.0.1:{self.port}")

    def step(self, heading, commands):
        """Types the commands; the failure in words, or None."""
        state = self.folder / "state"
        before = f". '{state}'; cd \"$(cat '{state}.pwd')\"; " if state.exists() else f"cd '{self.folder}'; "
        after = f"; export -p >'{state}'; pwd >'{state}.pwd'"
        script = f"set -euo pipefail; {before}\n{commands}\n:{after}"
        log = self.folder / "output"
        background = heading == "Run it"
        if background:
            script = f"set -euo pipefail; {before}\nexec {commands}"
        with log.open("wb") as output:
            child = subprocess.Popen(
                ["bash", "-c", script], env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        if background:
            self.running = child
            return self.wait_until_ready(child, log)
        try:
            code = child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return f"it did not end within {LIMIT} s"
        said = log.read_text("utf-8", "replace")
        print("\n".join(f"    {line}" for line in said.splitlines()[-12:]), flush=True)
        if code:
            return f"it ended with {code}"
        wanted = SAYS.get(heading, "")
        return None if wanted in said else f"it does not say {wanted!r}"

    def wait_until_ready(self, child, log):
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if child.poll() is not None:
                return f"it ended with {child.returncode}: {log.read_text('utf-8', 'replace')[-2000:]}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                    if answer.status == 200:
                        return None
            except OSError:
                pass
            time.sleep(0.2)
        return "it was not ready within two minutes"

    def stop(self):
        """Ends the pipeline as Ctrl-C does; the failure in words, or None."""
        if self.running is None or self.running.poll() is not None:
            return None
        self.running.send_signal(signal.SIGINT)
        try:
            code = self.running.wait(60)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
            return "it did not stop within a minute"
        return f"it stopped with {code}" if code else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", help="a messina that is built already, in place of the build")
    parser.add_argument("--topic", required=True, help="begins the names of the topics")
    parser.add_argument("--keyspace", required=True)
    options = parser.parse_args()
    began, done, failed = time.monotonic(), 0, []
    folder = Path(tempfile.mkdtemp(prefix="messina-newcomer-"))
    newcomer = Newcomer(options, folder)
    times = {}
    try:
        for heading, commands in steps():
            commands = newcomer.as_here(heading, commands)
            done += 1
            print(f"{done}. {heading}\n" + "\n".join(f"  $ {line}" for line in commands.splitlines()), flush=True)
            at = time.monotonic()
            why = newcomer.step(heading, commands)
            times[heading] = round(time.monotonic() - at, 1)
            print(f"  {times[heading]} s", flush=True)
            if why:
                print(f"  FAILED: {why}", flush=True)
                failed.append(heading)
                # The rest builds upon it.
                break
        else:
            for heading in SAYS.keys() - times.keys():
                print(f"  FAILED: no step is called {heading!r}", flush=True)
                failed.append(heading)
        if why := newcomer.stop():
            print(f"  FAILED: {why}", flush=True)
            failed.append("Ctrl-C")
    finally:
        newcomer.stop()
        shutil.rmtree(folder)
    minutes = round((time.monotonic() - began) / 60, 2)
    built = "given" if options.binary else "from nothing"
    print(f"{done} steps, {minutes} minutes, {len(failed)} failed; the program was {'given' if options.binary else 'built from nothing'}")
    print(json.dumps({"minutes": minutes, "steps": done, "failed_steps": len(failed), "failed": failed, "build": built, "seconds": times}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
