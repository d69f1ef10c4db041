"""What these tests share: expressions of dashboards and rules, a demo with a real Prometheus, places of the tools, and waiting. Contains no tests."""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RULES = ROOT / "deploy/prometheus/messina.rules.yaml"
CACHE = pathlib.Path(
    os.environ.get("MESSINA_TEST_CACHE")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "messina-test"
)

# How long to wait for something that is immediate on a quiet machine.
LONG = 240


def prometheus():
    """The folder that holds prometheus and promtool."""
    done = subprocess.run(["bash", HERE / "prometheus", CACHE / "prometheus"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return pathlib.Path(done.stdout.strip())


def dashboards():
    """All dashboards, by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "dashboards").glob("*.json"))}


def panels(dashboard):
    """Its panels without rows."""
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
    """A port below the range of outgoing connections, so that nobody takes it before the server listens."""
    for port in random.sample(range(10_000, 17_000), 100):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("of a hundred ports none was free")


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def metric(address, name):
    """The sum of all series whose lines begin with this."""
    lines = [line for line in get(f"http://{address}/metrics").splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def skip(test, reason):
    """Skips the test, and reports it to ./test."""
    if os.environ.get("MESSINA_TEST_SKIPPED"):
        with open(os.environ["MESSINA_TEST_SKIPPED"], "a") as skipped:
            skipped.write(f"{test.id()}: {reason}\n")
    test.skipTest(reason)


def services_or_skip(test, *variables):
    """Skips the test if the addresses of services are not set."""
    missing = [name for name in variables if name not in os.environ]
    if missing:
        reason = f"needs services: {', '.join(missing)} not set"
        skip(test, reason)


def until(what, look):
    deadline = time.monotonic() + LONG
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {LONG} s in vain for {what}")
        time.sleep(0.3)


class Demo:
    """A running demo. `address` is that of its status page."""

    def __init__(self):
        self.processes = []
        self.held = tempfile.TemporaryDirectory()
        try:
            self.start(pathlib.Path(self.held.name))
        except BaseException:
            self.stop()
            raise

    def start(self, folder):
        binary = os.environ.get("MESSINA_BIN")
        if not binary:
            raise AssertionError("MESSINA_BIN names no binary: cargo build --release, or ./test")
        # Enough records for minutes: the demo is stopped when the test is done.
        self.log = folder / "demo.log"
        with self.log.open("w") as out:
            demo = subprocess.Popen([binary, "demo", "--records", "20000000"], stdout=out, stderr=out, cwd=folder)
        self.processes.append(demo)

        def page():
            if demo.poll() is not None:
                raise AssertionError(f"the demo has ended: {self.log.read_text()}")
            return re.search(r"status page is http://([\d.:]+)/", self.log.read_text())

        self.address = until("the demo's address", page).group(1)
        until("the demo to be ready", lambda: json.loads(get(f"http://{self.address}/status"))["ready"])

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.held.cleanup()


class Observed(Demo):
    """A running demo, and a Prometheus that scrapes it every two seconds and evaluates the rules. `url` is Prometheus'."""

    def start(self, folder):
        super().start(folder)
        config = folder / "prometheus.yml"
        config.write_text(
            f"global: {{ scrape_interval: 2s, evaluation_interval: 2s }}\nrule_files: ['{RULES}']\n"
            f"scrape_configs: [{{ job_name: messina, static_configs: [{{ targets: ['{self.address}'], "
            # The labels of a PodMonitor.
            "labels: { namespace: messina, pod: messina-0 } }] }]\n"
        )
        port = free_port()
        with (folder / "prometheus.log").open("w") as out:
            command = [prometheus() / "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
            self.processes.append(subprocess.Popen(command, stdout=out, stderr=out))
        self.url = f"http://127.0.0.1:{port}"
        # A rate needs two scrapes that contain counts, for all pipelines.
        until("three pipelines with a rate", lambda: len(self.ask('rate(messina_records_total{outcome="done"}[30s]) > 0')) >= 3)
        until("commits", lambda: len(self.ask("rate(messina_commits_total[30s]) > 0")) >= 3)

    def ask(self, expression, kind="query", **more):
        """The result of a query; an error is an AssertionError with Prometheus' words."""
        try:
            answer = json.loads(get(f"{self.url}/api/v1/{kind}?" + urllib.parse.urlencode({"query": expression, **more})))
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it is still starting
                return []
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        except OSError:
            return []
        return [result for result in answer["data"]["result"] if "values" in result or result["value"][1] != "NaN"]


def with_variables(expression):
    """The expression as Grafana sends it with everything selected. Range and step are longer than a demo takes on a slow machine."""
    values = {"$__rate_interval": "30s", "$__range": "5m", "$__interval_ms": "3600000", "$job": "messina"}
    for variable, value in {**values, "$namespace": ".*", "$instance": ".*", "$pipeline": ".*", "$step": ".*"}.items():
        expression = expression.replace(variable, value)
    return expression


def chromium():
    """The path of the system's Chromium, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def browser():
    """A headless Chromium, for a with statement."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox needs user namespaces, which a container may not have. Only our own page is shown.
        running = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield running
        finally:
            running.close()
