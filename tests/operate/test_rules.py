"""Rules pass promtool, each alert is tested with its symptom, and each links to a runbook."""

import pathlib
import re
import subprocess
import tempfile
import unittest

from operate import ROOT, RULES, prometheus, rules

TESTS = RULES.with_suffix(".test.yaml")
RUNBOOKS = ROOT / "docs/runbooks"


def alerts():
    return [rule for group in rules() for rule in group["rules"] if "alert" in rule]


class Rules(unittest.TestCase):
    def promtool(self, *arguments, folder=RULES.parent):
        done = subprocess.run([prometheus() / "promtool", *arguments], capture_output=True, text=True, cwd=folder)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("SUCCESS", done.stdout)

    def test_promtool_checks(self):
        self.promtool("check", "rules", RULES.name)

    def test_promtool_tests(self):
        self.promtool("test", "rules", TESTS.name)

    def test_the_alert_that_the_documentation_gives_sees_a_first_failure(self):
        import yaml

        [expression] = re.findall(r"^```promql\n(.*?)^```", (ROOT / "docs/operations.md").read_text(), re.M | re.S)
        rule = {"alert": "Schema", "expr": expression, "labels": {"severity": "ticket"}}
        series = 'messina_failures_total{job="messina", instance="a", pipeline="p", step="schema", class="permanent", level="error"}'
        told = [{"exp_labels": {"severity": "ticket", "job": "messina", "pipeline": "p"}}]
        # The series starts at 1 in the 20th minute, and grows in the 60th. From the 101st on it is not scraped for 20 minutes, and from the
        # 151st on the process is down for as long.
        cases = [(19, []), (21, told), (28, told), (40, []), (62, told), (80, []), (122, []), (129, []), (140, []), (172, told), (185, [])]
        started = 'messina_process_start_time_seconds{job="messina", instance="a"}'
        test = {
            "interval": "1m",
            "input_series": [
                {"series": series, "values": "_x20 1x39 2x40 _x20 2x29 stale _x19 1x30"},
                {"series": started, "values": "0x100 _x20 0x29 stale _x19 10260x30"},
            ],
            "alert_rule_test": [{"alertname": "Schema", "eval_time": f"{at}m", "exp_alerts": alerts} for at, alerts in cases],
        }
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "schema", "rules": [rule]}]}))
            pathlib.Path(folder, "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
            self.promtool("test", "rules", "tests.yaml", folder=folder)

    def test_each_alert_is_tested_as_firing(self):
        import yaml

        fired = set()
        for case in yaml.safe_load(TESTS.read_text())["tests"]:
            for test in case.get("alert_rule_test", []):
                if test["exp_alerts"]:
                    fired.add(test["alertname"])
        self.assertEqual(fired, {alert["alert"] for alert in alerts()})

    def test_each_alert_has_severity_summary_and_runbook(self):
        for alert in alerts():
            name = alert["alert"]
            self.assertIn(alert["labels"]["severity"], ("page", "ticket"), name)
            self.assertTrue(alert["annotations"]["summary"], name)
            self.assertTrue((ROOT / alert["annotations"]["runbook"]).is_file(), f"{name}: {alert['annotations']['runbook']}")

    def test_each_runbook_is_whole_and_is_led_to(self):
        led_to = {(ROOT / alert["annotations"]["runbook"]).name for alert in alerts()}
        self.assertEqual(led_to, {path.name for path in RUNBOOKS.glob("Messina*.md")})
        for path in sorted(RUNBOOKS.glob("Messina*.md")):
            text = path.read_text()
            self.assertEqual(re.findall(r"^## (.*)$", text, re.M), ["Meaning", "Impact", "Look", "Act"], path.name)
            self.assertTrue(text.startswith(f"# {path.stem}\n"), path.name)
            for metric in re.findall(r"`(messina_[a-z_]+)`", text):
                self.assertIn(f"| `{metric}` |", (ROOT / "docs/metrics.md").read_text(), f"{path.name}: {metric}")


if __name__ == "__main__":
    unittest.main()
