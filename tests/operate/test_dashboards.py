"""Dashboards match their source, and Grafana accepts them."""

import json
import re
import runpy
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from operate import CACHE, HERE, ROOT, dashboards, metrics_in, panels, prometheus, rules, with_variables


class Dashboards(unittest.TestCase):
    def test_they_are_what_the_source_makes(self):
        built = runpy.run_path(str(ROOT / "dashboards/build"))["built"]()
        stored = {path.name: path.read_text() for path in (ROOT / "dashboards").glob("*.json")}
        self.assertEqual(built.keys(), stored.keys())
        for name in built:
            self.assertEqual(built[name], stored[name], f"{name} is old: run dashboards/build")

    def test_each_panel_says_what_it_shows(self):
        for name, dashboard in dashboards().items():
            titles = [panel["title"] for panel in panels(dashboard)]
            for panel in panels(dashboard):
                place = f"{name}: {panel['title']}"
                self.assertGreater(len(panel["description"]), 15, place)
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], place)
                self.assertTrue(panel["targets"], place)
                for target in panel["targets"]:
                    for span in re.findall(r"\[([^\]]*)\]", target["expr"].split("{")[0] + re.sub(r"\{[^}]*\}", "", target["expr"])):
                        self.assertIn(span, ("$__rate_interval", "$__range"), f"{place}: {target['expr']}")
            self.assertTrue(titles)

    def test_no_quantile_is_averaged_or_added_up(self):
        for name, dashboard in dashboards().items():
            for panel in panels(dashboard):
                for target in panel["targets"]:
                    self.assertNotRegex(target["expr"], r"(avg|sum|max)[^(]*\(\s*histogram_quantile", f"{name}: {panel['title']}")

    def test_steps_of_one_name_in_several_pipelines_are_not_added_up(self):
        declared = re.findall(r"^\| `(messina_\w+)` \| \w+ \| ([^|]*) \|", (ROOT / "docs/metrics.md").read_text(), re.M)
        of_steps = {name for name, labels in declared if {"`pipeline`", "`step`"} <= set(labels.split(", "))}
        self.assertIn("messina_step_seconds", of_steps)
        for name, dashboard in dashboards().items():
            for panel in panels(dashboard):
                for target in panel["targets"]:
                    place = f"{name}: {panel['title']}: {target['expr']}"
                    groups = [set(group.split(", ")) for group in re.findall(r"\bby \(([^)]*)\)", target["expr"])]
                    if metrics_in(target["expr"]) & of_steps and any("step" in group for group in groups):
                        self.assertTrue(all("pipeline" in group for group in groups), place)
                        self.assertIn("{{pipeline}} {{step}}", target["legendFormat"], place)

    def test_the_lag_is_red_from_where_the_objective_counts_it(self):
        [stale] = [rule["expr"] for group in rules() for rule in group["rules"] if rule.get("record") == "pipeline:messina_stale:bool"]
        bound = float(re.search(r"> bool (\d+)$", stale).group(1))
        shown = {panel["title"]: panel for panel in panels(dashboards()["overview.json"])}
        for title in ("Lag", "Lag in seconds"):
            self.assertEqual([value for value, colour in thresholds(shown[title]) if colour == "red"], [bound], title)

    def test_one_process_that_is_not_ready_and_dead_letters_among_skipped_records_are_seen(self):
        shown = {panel["title"]: panel for panel in panels(dashboards()["overview.json"])}
        series = [{"series": f'messina_ready{{job="messina", instance="{name}"}}', "values": "1x20"} for name in "abc"]
        series.append({"series": 'messina_ready{job="messina", instance="d"}', "values": "1x9 0x10"})
        record = 'messina_records_total{job="messina", instance="a", pipeline="p", outcome="%s"}'
        series += [{"series": record % outcome, "values": values} for outcome, values in {"skipped": "0+995x20", "dead_lettered": "0+5x20"}.items()]
        series.append({"series": 'messina_dead_letters_total{job="messina", instance="a", pipeline="p", class="permanent"}', "values": "0+5x20"})
        cases = []
        for title, at, value in [("Not ready", 2, 0), ("Not ready", 4, 1), ("Dead letters", 4, 1)]:
            [target] = shown[title]["targets"]
            asked = with_variables(target["expr"]).replace("[30s]", "[1m]")
            cases.append({"expr": asked, "eval_time": f"{at}m", "exp_samples": [{"labels": "{}", "value": value}]})
        self.assertEqual(thresholds(shown["Not ready"]), [(None, "green"), (1, "red")])
        tests = {"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": cases}]}
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "tests.yaml").write_text(json.dumps(tests))
            run([prometheus() / "promtool", "test", "rules", "tests.yaml"], folder)

    def test_each_selector_has_the_namespace(self):
        for name, dashboard in dashboards().items():
            asked = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
            asked += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
            source, namespace, *others = dashboard["templating"]["list"]
            self.assertEqual([source["name"], namespace["name"], others[0]["name"]], ["datasource", "namespace", "job"], name)
            asked += [variable["query"]["query"] for variable in others]
            for expression in asked:
                for selector in re.findall(r"\bmessina_\w+(\{[^}]*\})?", expression):
                    self.assertIn('namespace=~"$namespace"', selector, f"{name}: {expression}")
            # If no series has the label, "All" is the only choice, and it must match those series.
            for variable in (namespace, *others):
                self.assertEqual((variable["includeAll"], variable["allValue"], variable["current"]["value"]), (True, ".*", "$__all"), name)

    def test_a_partitions_rate_is_that_of_one_pipeline(self):
        [panel] = [panel for panel in panels(dashboards()["kafka.json"]) if panel["title"] == "Rate by partition"]
        [target] = panel["targets"]
        # As in Compose, without a namespace.
        series = 'messina_position{job="messina", instance="a", pipeline="%s", topic="t", partition="0"}'
        rates = [{"labels": f'{{pipeline="{pipeline}", topic="t", partition="0"}}', "value": 2} for pipeline in "pq"]
        asked = with_variables(target["expr"]).replace("[30s]", "[1m]")
        case = {"expr": asked, "eval_time": "5m", "exp_samples": rates}
        input_series = [{"series": series % pipeline, "values": "0+30x40"} for pipeline in "pq"]
        # Partition r has no offset in the group; its first record is taken in the sixth minute.
        input_series.append({"series": series % "r", "values": "0x20 1200000000+10x20"})
        jumps = [{"expr": f"{asked} > 1000", "eval_time": f"{at}s", "exp_samples": []} for at in range(285, 600, 15)]
        late = {"labels": '{pipeline="r", topic="t", partition="0"}', "value": 2}
        shown = {"expr": f"round(3 * {asked}) == 2", "eval_time": "9m", "exp_samples": [late]}
        tests = {"tests": [{"interval": "15s", "input_series": input_series, "promql_expr_test": [case, *jumps, shown]}]}
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "tests.yaml").write_text(json.dumps(tests))
            run([prometheus() / "promtool", "test", "rules", "tests.yaml"], folder)

    def test_a_start_is_marked_once_of_a_new_process_too(self):
        [expression] = {annotation["expr"] for dashboard in dashboards().values() for annotation in dashboard["annotations"]["list"]}
        start = 'messina_process_start_time_seconds{job="messina", instance="%s"}'
        # The first process starts at 570 s and is scraped from 585 s on; the second restarts at 1230 s.
        series = [{"series": start % "new", "values": "_x39 570x300"}, {"series": start % "again", "values": "-86400x81 1230x300"}]
        # Grafana merges marks that are at most a minute apart.
        marks = {60: {600: ("new", 30), 660: ("new", 90), 1260: ("again", 30), 1320: ("again", 90)}, 900: {900: ("new", 330), 1800: ("again", 570)}}
        cases = []
        for step, marked in marks.items():
            asked = with_variables(expression.replace("$__interval_ms", str(step * 1000)))
            for at in range(step, 3600, step):
                samples = [{"labels": f'{{job="messina", instance="{name}"}}', "value": value} for name, value in [marked[at]]] if at in marked else []
                cases.append({"expr": asked, "eval_time": f"{at}s", "exp_samples": samples})
        tests = {"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": cases}]}
        with tempfile.TemporaryDirectory() as folder:
            # JSON is valid YAML.
            Path(folder, "tests.yaml").write_text(json.dumps(tests))
            run([prometheus() / "promtool", "test", "rules", "tests.yaml"], folder)

    def test_panels_fit_side_by_side(self):
        for name, dashboard in dashboards().items():
            taken = {}
            for panel in dashboard["panels"]:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24, f"{name}: {panel['title']}")
                for x in range(place["x"], place["x"] + place["w"]):
                    for y in range(place["y"], place["y"] + place["h"]):
                        self.assertNotIn((x, y), taken, f"{name}: {panel['title']} lies on {taken.get((x, y))}")
                        taken[x, y] = panel["title"]

    def test_grafana_knows_the_types_and_units(self):
        work = CACHE / "grafana"
        work.mkdir(parents=True, exist_ok=True)
        for file in ("package.json", "package-lock.json", "tsconfig.json", "types.ts", "units.cjs"):
            shutil.copy(HERE / "grafana" / file, work / file)
        lock = (work / "package-lock.json").read_text()
        mark = work / "installed"
        if not mark.exists() or mark.read_text() != lock:
            run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], work)
            mark.write_text(lock)
        generated = work / "generated"
        shutil.rmtree(generated, ignore_errors=True)
        generated.mkdir()
        for name, dashboard in dashboards().items():
            text = f"import type {{ Checked }} from '../types';\nexport const dashboard: Checked = {json.dumps(dashboard, indent=1)};\n"
            (generated / name).with_suffix(".ts").write_text(text)
        run(["npx", "--no-install", "tsc", "-p", "."], work)
        # A misspelt option must be found, so that silence means something.
        wrong = json.dumps(dashboards()["tail.json"], indent=1).replace('"mode": "multi"', '"mode": "mult"')
        (generated / "wrong.ts").write_text(f"import type {{ Checked }} from '../types';\nexport const dashboard: Checked = {wrong};\n")
        checked = subprocess.run(["npx", "--no-install", "tsc", "-p", "."], cwd=work, capture_output=True, text=True)
        self.assertNotEqual(checked.returncode, 0)
        self.assertIn("wrong.ts", checked.stdout)

        units = set(json.loads(run(["node", "units.cjs"], work)))
        for name, dashboard in dashboards().items():
            for panel in panels(dashboard):
                self.assertIn(panel["fieldConfig"]["defaults"]["unit"], units, f"{name}: {panel['title']}")


def thresholds(panel):
    """(value, colour) of each; the first has no value."""
    return [(step["value"], step["color"]) for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    unittest.main()
