"""What these tests share: the dashboards' and rules' expressions, where the tools are, and waiting. No test is in here."""

import json
import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RULES = ROOT / "deploy/prometheus/messina.rules.yaml"
CACHE = pathlib.Path(
    os.environ.get("MESSINA_TEST_CACHE")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "messina-test"
)

# How long to wait for something that comes at once on a quiet machine.
LONG = 240


def prometheus():
    """The folder that holds prometheus and promtool."""
    done = subprocess.run(["bash", HERE / "prometheus", CACHE / "prometheus"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return pathlib.Path(done.stdout.strip())


def dashboards():
    """File name to dashboard."""
    return {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "dashboards").glob("*.json"))}


def panels(dashboard):
    """Its panels, rows left out."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_expressions():
    """(place, expression) of all panels, annotations and variables."""
    found = []
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                found.append((f"{name}: {panel['title']}: {target['legendFormat']}", target["expr"]))
        for annotation in dashboard["annotations"]["list"]:
            found.append((f"{name}: annotation {annotation['name']}", annotation["expr"]))
    return found


def rules():
    """Groups of the rules file, as promtool would read them."""
    import yaml

    return yaml.safe_load(RULES.read_text())["groups"]


def metrics_in(expression):
    """Names of Messina's metrics in it, a histogram's by its own name."""
    names = re.findall(r"\bmessina_[a-z0-9_]+", re.sub(r"\b\w+:messina_[a-z_]+:\w+", "", expression))
    return {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in names}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def metric(address, name):
    """Sum of the series that begin so."""
    lines = [line for line in get(f"http://{address}/metrics").splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def services_or_skip(test, *variables):
    """Skips the test, and says so to ./test, where the addresses of services are not set."""
    missing = [name for name in variables if name not in os.environ]
    if missing:
        reason = f"needs services: {', '.join(missing)} not set"
        if os.environ.get("MESSINA_TEST_SKIPPED"):
            with open(os.environ["MESSINA_TEST_SKIPPED"], "a") as skipped:
                skipped.write(f"{test.id()}: {reason}\n")
        test.skipTest(reason)


def until(what, look):
    deadline = time.monotonic() + LONG
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {LONG} s in vain for {what}")
        time.sleep(0.3)
