"""A real Prometheus scrapes a running demo: what dashboards and rules ask, it can answer."""

import json
import os
import re
import signal
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from operate import HERE, RULES, free_port, get, metrics_in, panel_expressions, prometheus, rules, until

# What Grafana puts in for its variables. The range is longer than a demo on a slow machine.
VARIABLES = {
    "$__rate_interval": "30s",
    "$__range": "5m",
    "$job": "messina",
    "$instance": ".*",
    "$pipeline": ".*",
    "$step": ".*",
}


def reasons(file):
    """Lines `pattern: reason`; # begins a comment."""
    found = {}
    for line in (HERE / file).read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, reason = line.split(": ", 1)
            found[pattern.strip()] = reason.strip()
    return found


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.processes = []
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.stop)
        binary = os.environ.get("MESSINA_BIN")
        if not binary:
            raise AssertionError("MESSINA_BIN names no binary: cargo build --release, or ./test")
        # Minutes of records: it is stopped when all is looked at.
        log = Path(cls.folder.name) / "demo.log"
        with log.open("w") as out:
            cls.demo = subprocess.Popen([binary, "demo", "--records", "20000000"], stdout=out, stderr=out, cwd=cls.folder.name)
        cls.processes.append(cls.demo)
        page = until("the demo's address", lambda: cls.alive(log) and re.search(r"status page is http://([\d.:]+)/", log.read_text()))
        cls.address = page.group(1)
        config = Path(cls.folder.name) / "prometheus.yml"
        config.write_text(
            f"global: {{ scrape_interval: 2s, evaluation_interval: 2s }}\nrule_files: ['{RULES}']\n"
            f"scrape_configs: [{{ job_name: messina, static_configs: [{{ targets: ['{cls.address}'], "
            # As a PodMonitor's.
            "labels: { namespace: messina, pod: messina-0 } }] }]\n"
        )
        port = free_port()
        with (Path(cls.folder.name) / "prometheus.log").open("w") as out:
            cls.processes.append(
                subprocess.Popen(
                    [
                        prometheus() / "prometheus",
                        f"--config.file={config}",
                        f"--storage.tsdb.path={cls.folder.name}/data",
                        f"--web.listen-address=127.0.0.1:{port}",
                    ],
                    stdout=out,
                    stderr=out,
                )
            )
        cls.url = f"http://127.0.0.1:{port}"
        # A rate needs two scrapes with counts in them, of all pipelines.
        until("three pipelines with a rate", lambda: len(cls.ask('rate(messina_records_total{outcome="done"}[30s]) > 0')) >= 3)
        until("commits", lambda: len(cls.ask("rate(messina_commits_total[30s]) > 0")) >= 3)

    @classmethod
    def stop(cls):
        for process in cls.processes:
            process.send_signal(signal.SIGINT)
        for process in cls.processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        cls.folder.cleanup()

    @classmethod
    def alive(cls, log):
        if cls.demo.poll() is not None:
            raise AssertionError(f"the demo has ended: {log.read_text()}")
        return True

    @classmethod
    def ask(cls, expression):
        """The result of a query; an error is an AssertionError with Prometheus' words."""
        try:
            answer = json.loads(get(f"{cls.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                return []
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        except OSError:
            return []
        return [result for result in answer["data"]["result"] if result["value"][1] != "NaN"]

    def test_every_expression_returns_data_or_is_empty_by_nature(self):
        empty_by_nature = reasons("empty_by_nature.txt")
        unused = set(empty_by_nature)
        empty, filled = [], []
        expressions = panel_expressions()
        for group in rules():
            for rule in group["rules"]:
                # An alert's expression is empty while all is well: its parts are asked without the comparison, in the dashboards.
                if "record" in rule:
                    expressions.append((rule["record"], rule["expr"].replace("1h]", "30s]").replace("6h]", "30s]").replace("5m]", "30s]")))
                else:
                    self.ask(rule["expr"])
        for place, expression in expressions:
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            found = self.ask(expression)
            matching = [pattern for pattern in empty_by_nature if re.search(pattern, expression)]
            if found:
                filled.append(place)
            else:
                unused -= set(matching)
                if not matching:
                    empty.append(f"{place}: {expression}")
        self.assertFalse(empty, "returned nothing, and no pattern of empty_by_nature.txt says why:\n" + "\n".join(empty))
        self.assertFalse(unused, f"patterns of empty_by_nature.txt that explain no empty expression: {unused}")
        print(f"{len(filled)} of {len(expressions)} expressions returned data, the others are empty by nature")

    def test_keda_is_answered(self):
        scaled = (HERE.parent.parent / "deploy/kubernetes/everything.yaml").read_text()
        query = re.search(r"^ *query: (sum\(messina_lag_records.*)$", scaled, re.M).group(1)
        self.assertEqual(len(self.ask(query)), 1, query)

    def test_the_scrape_is_openmetrics(self):
        request = urllib.request.Request(f"http://{self.address}/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            self.assertTrue(answer.headers["Content-Type"].startswith("application/openmetrics-text"))
            text = answer.read().decode()
        families = {family.name: family.type for family in text_string_to_metric_families(text)}
        self.assertEqual(families["messina_records"], "counter")
        self.assertEqual(families["messina_step_seconds"], "histogram")
        # Prometheus asks for it, too, and takes all of it.
        self.assertEqual([result["value"][1] for result in self.ask("up")], ["1"])

    def test_health_is_asked_by_the_binary_itself(self):
        binary = os.environ["MESSINA_BIN"]
        asked = subprocess.run([binary, "health", "--listen", self.address], capture_output=True, text=True)
        self.assertEqual((asked.returncode, asked.stderr), (0, ""))
        asked = subprocess.run([binary, "health", "--listen", f"127.0.0.1:{free_port()}"], capture_output=True, text=True)
        self.assertEqual(asked.returncode, 69)
        self.assertIn("does not answer", asked.stderr)

    def test_every_exported_metric_is_shown(self):
        used = set()
        for _, expression in panel_expressions():
            used |= metrics_in(expression)
        for group in rules():
            for rule in group["rules"]:
                used |= metrics_in(rule["expr"])
        exported = set(re.findall(r"^# TYPE (\S+)", get(f"http://{self.address}/metrics"), re.M))
        self.assertGreater(len(exported), 40)
        declared = set(re.findall(r"^\| `(messina_\w+)` \|", (HERE.parent.parent / "docs/metrics.md").read_text(), re.M))
        self.assertLessEqual(exported, declared)
        unused = reasons("unused_metrics.txt")
        self.assertEqual(sorted(declared - used), sorted(unused), "metrics that no panel and no rule shows, and unused_metrics.txt")
        self.assertLessEqual(used, declared, "metrics that do not exist")

    def test_no_histogram_is_mostly_in_its_first_bucket(self):
        """A median of the first bucket is a median of nothing."""
        for name in re.findall(r"^# TYPE (\S+) histogram", get(f"http://{self.address}/metrics"), re.M):
            for result in self.ask(f"sum by (pipeline, stage, step) ({name}_count)"):
                labels = ",".join(f'{k}="{v}"' for k, v in result["metric"].items())
                buckets = self.ask(f"sum by (le) ({name}_bucket{{{labels}}})")
                buckets = sorted((float(b["metric"]["le"]), float(b["value"][1])) for b in buckets)
                total = buckets[-1][1]
                if total > 0:
                    self.assertLess(buckets[0][1], total / 2, f"{name} {labels}: {buckets[0][1]} of {total} are at most {buckets[0][0]} s")


if __name__ == "__main__":
    unittest.main()
