"""A real Prometheus scrapes a running demo, and can answer the queries of dashboards and rules."""

import os
import re
import subprocess
import unittest
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from operate import HERE, Observed, free_port, get, metrics_in, panel_expressions, rules, with_variables

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
        cls.observed = Observed()
        cls.addClassCleanup(cls.observed.stop)
        cls.address, cls.ask = cls.observed.address, cls.observed.ask

    def test_every_expression_returns_data_or_is_empty_by_nature(self):
        empty_by_nature = reasons("empty_by_nature.txt")
        unused = set(empty_by_nature)
        empty, filled = [], []
        expressions = panel_expressions()
        for group in rules():
            for rule in group["rules"]:
                # An alert's expression is empty while all is well. Its parts are queried without the comparison, in the dashboards.
                if "record" in rule:
                    expressions.append((rule["record"], rule["expr"].replace("1h]", "30s]").replace("6h]", "30s]").replace("5m]", "30s]")))
                else:
                    self.ask(rule["expr"])
        for place, expression in expressions:
            expression = with_variables(expression)
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
        # Prometheus requests it, too, and accepts all of it.
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
        """A median in the first bucket says nothing."""
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
