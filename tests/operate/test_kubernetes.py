"""The chart's rendered manifests are current, valid and restricted, and the binary accepts the configuration in them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml
from operate import CACHE, ROOT, prometheus

DEPLOY = ROOT / "deploy"
RENDERED = {path.name: path.read_text() for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) if not path.name.endswith(".values.yaml")}
# Manifests that hold a workload, and those that hold the pod of its check.
WHOLE = ("everything.yaml", "messina.yaml")
CHECKS = ("everything.check.yaml", "messina.check.yaml")
# Keys of the chart's first values: an upgrade with `--reuse-values` may have no others.
FIRST = """
    image imagePullSecrets replicas kind staticMembership config secrets certificates env resources terminationGracePeriodSeconds
    podDisruptionBudget topologySpread nodeSelector tolerations affinity priorityClassName podAnnotations podLabels networkPolicy monitoring
    keda image.repository image.tag image.pullPolicy resources.requests resources.limits podDisruptionBudget.enabled
    podDisruptionBudget.maxUnavailable topologySpread.node topologySpread.zone networkPolicy.enabled networkPolicy.scrapeFrom
    networkPolicy.egressPorts monitoring.podMonitor monitoring.rules monitoring.dashboards keda.enabled keda.minReplicas keda.partitions
    keda.prometheus keda.lagPerReplica keda.cooldownSeconds
""".split()
# Resources of operators, which are not in Kubernetes' own schemas.
OTHERS = {"PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor"}


def documents(name):
    return [document for document in yaml.safe_load_all(RENDERED[name]) if document]


def one(name, *kinds):
    found = [document for document in documents(name) if document["kind"] in kinds]
    assert len(found) == 1, f"{name} has {len(found)} of {kinds}"
    return found[0]


def rendered(release, chart=DEPLOY / "helm/messina", **values):
    """What helm renders from these values, by kind."""
    command = [CACHE / "helm/helm", "template", release, chart, "--namespace", "streams", "--kube-version", "1.34.0", "--values", "-"]
    text = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=True).stdout
    return {document["kind"]: document for document in yaml.safe_load_all(text) if document}


def aged():
    """Values of an upgrade with `--reuse-values`: (key, all other values) for each key that the first chart did not have."""
    values = yaml.safe_load((DEPLOY / "helm/messina/values.yaml").read_text())
    for key in sorted(set(values) - set(FIRST)):
        yield key, {name: value for name, value in values.items() if name != key}
    for section in sorted(name for name in FIRST if isinstance(values.get(name), dict)):
        for key in values[section]:
            if f"{section}.{key}" not in FIRST:
                yield f"{section}.{key}", {**values, section: {name: value for name, value in values[section].items() if name != key}}


def pods(name):
    """(title, specification) of all pods."""
    for document in documents(name):
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield f"{name}: {document['kind']}", document["spec"]["template"]["spec"]
        elif document["kind"] == "Pod":
            yield f"{name}: Pod", document["spec"]


class Kubernetes(unittest.TestCase):
    def test_they_are_rendered_from_this_chart(self):
        sources = subprocess.run(["bash", DEPLOY / "sources"], capture_output=True, text=True, check=True).stdout.strip()
        for name, text in RENDERED.items():
            self.assertIn(f"# sources: {sources}\n", text, f"{name} is old: run deploy/render")
        if os.environ.get("MESSINA_TEST_LONG"):  # builds helm
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(["bash", DEPLOY / "render", folder], check=True)
                for name, text in RENDERED.items():
                    self.assertEqual((Path(folder) / name).read_text(), text, name)

    def test_the_chart_holds_these_dashboards_and_rules(self):
        files = DEPLOY / "helm/messina/files"
        self.assertEqual((files / "messina.rules.yaml").read_text(), (DEPLOY / "prometheus/messina.rules.yaml").read_text(), "run deploy/render")
        held = {path.name: json.loads(path.read_text()) for path in files.glob("*.json")}
        made = {path.name: json.loads(path.read_text()) for path in (ROOT / "dashboards").glob("*.json")}
        self.assertEqual(held, made, "run deploy/render")

    def test_kubernetes_takes_them(self):
        import kubernetes_validate

        version = kubernetes_validate.latest_version()
        kinds = set()
        for name in RENDERED:
            for document in documents(name):
                kinds.add(document["kind"])
                if document["kind"] not in OTHERS:
                    kubernetes_validate.validate(document, version, strict=True)
        self.assertLessEqual(OTHERS | {"Deployment", "StatefulSet", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy"}, kinds)

    def test_the_values_have_a_schema_that_refuses_what_is_unknown(self):
        import jsonschema

        schema = json.loads((DEPLOY / "helm/messina/values.schema.json").read_text())
        values = yaml.safe_load((DEPLOY / "helm/messina/values.yaml").read_text())
        validator = jsonschema.Draft7Validator(schema)
        self.assertEqual([error.message for error in validator.iter_errors(values)], [])
        self.assertEqual(set(values), set(schema["properties"]) - {"global"})
        twice = {kind: {"enabled": True} for kind in ("podMonitor", "serviceMonitor")}
        asleep = {**values["keda"], "minReplicas": 0}
        # The autoscaler allows an hour at most.
        patient = {**values["keda"], "cooldownSeconds": 3601}
        chosen = {"name": "kafka-user", "items": [{"key": "password", "path": "kafka-password"}]}
        for wrong in (
            {"replica": 3},
            {"kind": "daemonset"},
            {"terminationGracePeriodSeconds": 49},
            {"minReadySeconds": -1},
            # Probes, service and policy use the port by number.
            {"listen": "[::]:9191"},
            {"monitoring": {**values["monitoring"], **twice}},
            {"keda": asleep},
            {"keda": patient},
            # A Deployment's pod names never come back.
            {"staticMembership": ["navigation"]},
            {"secrets": [{"name": "kafka-user"}]},
            {"secrets": [{**chosen, "optional": True}]},
        ):
            self.assertTrue(list(validator.iter_errors({**values, **wrong})), wrong)
        rights = ({"staticMembership": ["navigation"], "kind": "statefulset"}, {"secrets": [chosen, "scylla-user"]}, {"listen": "[::]:9090"})
        for right in rights:
            self.assertEqual([error.message for error in validator.iter_errors({**values, **right})], [])

    def test_an_older_charts_values_are_taken(self):
        import jsonschema

        validator = jsonschema.Draft7Validator(json.loads((DEPLOY / "helm/messina/values.schema.json").read_text()))
        keys = set()
        for key, values in aged():
            keys.add(key)
            self.assertEqual([error.message for error in validator.iter_errors(values)], [], key)
        self.assertLessEqual({"listen", "minReadySeconds", "monitoring.serviceMonitor"}, keys)

    def test_pods_are_restricted(self):
        """Pod Security Standards, profile restricted (https://kubernetes.io/docs/concepts/security/pod-security-standards/), and more."""
        seen = 0
        for title, pod in (pair for name in RENDERED for pair in pods(name)):
            seen += 1
            for key in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertFalse(pod.get(key), title)
            self.assertTrue(pod["securityContext"]["runAsNonRoot"], title)
            self.assertGreater(pod["securityContext"]["runAsUser"], 0, title)
            self.assertEqual(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", title)
            self.assertIs(pod["automountServiceAccountToken"], False, title)
            for volume in pod["volumes"]:
                kind = set(volume) - {"name"}
                self.assertLessEqual(kind, {"configMap", "emptyDir", "projected", "secret"}, title)
            for container in pod["containers"]:
                security = container["securityContext"]
                self.assertIs(security["allowPrivilegeEscalation"], False, title)
                self.assertIs(security["readOnlyRootFilesystem"], True, title)
                self.assertEqual(security["capabilities"], {"drop": ["ALL"]}, title)
                self.assertNotIn("privileged", security, title)
                self.assertFalse([port for port in container.get("ports", []) if "hostPort" in port], title)
                self.assertIn("memory", container["resources"]["limits"], title)
        self.assertEqual(seen, 4)

    def test_all_pods_go_where_the_values_say(self):
        values = yaml.safe_load((DEPLOY / "kubernetes/everything.values.yaml").read_text())
        found = [*pods("everything.yaml"), *pods("everything.check.yaml")]
        self.assertEqual(len(found), 2)
        for title, pod in found:
            for key in ("imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations", "affinity"):
                self.assertEqual(pod[key], values[key], f"{title}: {key}")
            self.assertEqual(pod["containers"][0]["imagePullPolicy"], "IfNotPresent", title)

    def test_what_is_applied_can_be_applied_again(self):
        # Only a few fields of a Pod can be changed, and another configuration means another volume.
        for name in set(RENDERED) - set(CHECKS):
            self.assertNotIn("Pod", {document["kind"] for document in documents(name)}, name)
        for name in CHECKS:
            self.assertEqual([document["kind"] for document in documents(name)], ["Pod"], name)

    def test_what_the_check_says_can_be_read(self):
        for name in CHECKS:
            hook = one(name, "Pod")["metadata"]["annotations"]
            self.assertEqual(hook, {"helm.sh/hook": "test", "helm.sh/hook-delete-policy": "before-hook-creation"}, name)
        said = [ROOT / "docs/operations.md", ROOT / "docs/runbooks/MessinaNotReady.md", DEPLOY / "helm/messina/templates/NOTES.txt"]
        commands = [line for path in said for line in re.findall(r"\bhelm .*\btest .*", path.read_text())]
        self.assertEqual([" --logs" in command for command in commands], [True] * len(said), commands)

    def test_each_configuration_has_a_configmap_of_its_own(self):
        values = yaml.safe_load((DEPLOY / "helm/messina/values.yaml").read_text())
        wanted = f"messina-{hashlib.sha256(values['config'].encode()).hexdigest()[:10]}"
        for name in WHOLE:
            # The command in NOTES.txt removes old ConfigMaps by this label, and must not match a dashboard.
            labelled = [it for it in documents(name) if it["metadata"]["labels"].get("app.kubernetes.io/component") == "configuration"]
            self.assertEqual([(it["kind"], it["metadata"]["name"], it["data"]) for it in labelled], [("ConfigMap", wanted, {"messina.toml": values["config"]})])
            self.assertIs(labelled[0]["immutable"], True)
            # Helm would remove it at the next upgrade if it managed it; if it kept it, it would be in the way of a rollback.
            annotations = labelled[0]["metadata"]["annotations"]
            self.assertEqual(set(annotations["helm.sh/hook"].split(",")), {"pre-install", "pre-upgrade", "pre-rollback"}, name)
            self.assertEqual(annotations["helm.sh/hook-delete-policy"], "before-hook-creation", name)
            for title, pod in (*pods(name), *pods(name.replace(".yaml", ".check.yaml"))):
                self.assertEqual([volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume], [wanted], title)

    def test_secrets_and_certificates_are_mounted_by_names_that_kubernetes_takes(self):
        values = yaml.safe_load((DEPLOY / "kubernetes/everything.values.yaml").read_text())
        for title, pod in (*pods("everything.yaml"), *pods("everything.check.yaml")):
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            for volume in volumes:
                self.assertRegex(volume, r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", title)
            mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
            sources = [source["secret"] for source in mounted["/etc/messina/secrets"]["projected"]["sources"]]
            self.assertEqual(sources, [{"name": entry} if isinstance(entry, str) else entry for entry in values["secrets"]], title)
            for certificate in values["certificates"]:
                self.assertEqual(mounted[f"/etc/messina/tls/{certificate}"]["secret"]["secretName"], certificate, title)

    def test_the_network_policy_lets_shards_and_the_documented_collector_be_reached(self):
        collector = int(re.search(r'^otlp = "http://[^":]+:(\d+)"', (ROOT / "docs/operations.md").read_text(), re.MULTILINE).group(1))
        # Connections to a chosen shard use ScyllaDB's shard-aware ports, without and with TLS.
        wanted = {collector, 9042, 9142, 19042, 19142}
        for name in WHOLE:
            rules = one(name, "NetworkPolicy")["spec"]["egress"]
            self.assertLessEqual(wanted, {to["port"] for rule in rules for to in rule["ports"]}, name)
            # OpenShift's DNS listens on another port.
            dns = {(to["port"], to["protocol"]) for to in rules[0]["ports"]}
            self.assertEqual(dns, {(port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")}, name)

    def test_the_drain_has_time(self):
        # `shutdown_timeout` is 30 s unless configured, and the process ends at the latest 19 s after it: docs/operations.md.
        for name in WHOLE:
            workload = one(name, "Deployment", "StatefulSet")
            self.assertGreater(workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 49)

    def test_a_new_pod_has_shown_itself_before_the_next_old_one_goes(self):
        kinds = set()
        for name in WHOLE:
            workload = one(name, "Deployment", "StatefulSet")
            kinds.add(workload["kind"])
            spec = workload["spec"]
            [container] = spec["template"]["spec"]["containers"]
            probe = container["readinessProbe"]
            # A pod gets its partitions some seconds later. It reports a stall after `stall_timeout`, 60 s unless configured, and the probes must notice that.
            self.assertGreater(spec["minReadySeconds"], 60 + 10 + probe["periodSeconds"] * probe["failureThreshold"], name)
            if workload["kind"] == "Deployment":
                waited_for = spec["minReadySeconds"] + spec["template"]["spec"]["terminationGracePeriodSeconds"]
                self.assertGreater(spec["progressDeadlineSeconds"], waited_for, name)
                self.assertEqual(spec["strategy"]["rollingUpdate"], {"maxSurge": 0, "maxUnavailable": 1}, name)
            else:
                # Only a Deployment has this field.
                self.assertNotIn("progressDeadlineSeconds", spec, name)
        self.assertEqual(kinds, {"Deployment", "StatefulSet"})

    def test_the_binary_takes_the_configuration_and_the_environment(self):
        for name in WHOLE:
            container = one(name, "Deployment", "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
            toml = one_of_name(name, "ConfigMap", "messina.toml")
            with tempfile.TemporaryDirectory() as folder:
                # The only difference: what is mounted at /etc/messina in a pod is in a folder here.
                config = Path(folder) / "messina.toml"
                config.write_text(toml.replace("/etc/messina", folder))
                secret = Path(folder) / "secrets/scylla-password"
                secret.parent.mkdir()
                secret.write_text("test-password")
                environment = {entry["name"]: entry.get("value", "messina-0").replace("$(POD_NAME)", "messina-0") for entry in container["env"]}
                arguments = [argument.replace("/etc/messina", folder) for argument in container["args"]]
                self.assertEqual(arguments[0], "run")
                binary = os.environ.get("MESSINA_BIN") or self.fail("MESSINA_BIN names no binary")
                checked = subprocess.run(
                    [binary, "check", *arguments[1:]], env={**os.environ, **environment}, capture_output=True, text=True
                )
                self.assertEqual(checked.returncode, 0, f"{name}: {checked.stderr}")
                # Shows that it reads the environment at all.
                environment["MESSINA__HTTP__LISTEN"] = "nowhere"
                checked = subprocess.run(
                    [binary, "check", *arguments[1:]], env={**os.environ, **environment}, capture_output=True, text=True
                )
                self.assertEqual(checked.returncode, 78, f"{name}: {checked.stderr}")

    def test_monitors_find_what_they_scrape(self):
        workload, service = one("everything.yaml", "StatefulSet")["spec"]["template"], one("everything.yaml", "Service")
        ports = {port["name"] for container in workload["spec"]["containers"] for port in container["ports"]}
        for name, kind, endpoints, labels, named in (
            ("everything.yaml", "PodMonitor", "podMetricsEndpoints", workload["metadata"]["labels"], ports),
            ("servicemonitor.yaml", "ServiceMonitor", "endpoints", service["metadata"]["labels"], {port["name"] for port in service["spec"]["ports"]}),
        ):
            spec = one(name, kind)["spec"]
            self.assertTrue(spec["selector"]["matchLabels"])
            self.assertLessEqual(spec["selector"]["matchLabels"].items(), labels.items(), kind)
            self.assertEqual([(endpoint["path"], endpoint["port"] in named) for endpoint in spec[endpoints]], [("/metrics", True)], kind)
            # The job name that MessinaDown and MessinaAbsent expect.
            self.assertEqual(spec[endpoints][0]["relabelings"], [{"targetLabel": "job", "replacement": "messina"}], kind)
            self.assertNotIn("jobLabel", spec, kind)
        self.assertTrue(service["spec"]["publishNotReadyAddresses"], "what is not ready is to be scraped too")

    def test_a_prometheusrule_holds_the_rules(self):
        spec = one("everything.yaml", "PrometheusRule")["spec"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rules.yaml"
            path.write_text(yaml.safe_dump(spec))
            checked = subprocess.run([prometheus() / "promtool", "check", "rules", path], capture_output=True, text=True)
            self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertEqual(spec["groups"].pop()["name"], "messina.presence")
        source = yaml.safe_load((DEPLOY / "prometheus/messina.rules.yaml").read_text())
        self.assertEqual(
            yaml.safe_dump(spec).replace("https://runbooks.example/docs/", "docs/"), yaml.safe_dump(source), "rules differ"
        )

    def test_no_process_at_all_is_told(self):
        spec = one("everything.yaml", "PrometheusRule")["spec"]
        absent = [rule for group in spec["groups"] for rule in group["rules"] if rule.get("alert") == "MessinaAbsent"]
        self.assertEqual([rule["labels"]["severity"] for rule in absent], ["page"])
        self.assertTrue((ROOT / absent[0]["annotations"]["runbook"].removeprefix("https://runbooks.example/")).is_file())
        told = {"exp_labels": {"severity": "page", "namespace": "messina", "job": "messina"}, "exp_annotations": absent[0]["annotations"]}
        self.told(spec, "MessinaAbsent", {'pod="messina-0"': "1x5 0x10 _x45"}, [(14, []), (20, []), (40, [told])])

    def test_fewer_processes_than_asked_for_are_told(self):
        spec = one("everything.yaml", "PrometheusRule")["spec"]
        [few] = [rule for group in spec["groups"] for rule in group["rules"] if rule.get("alert") == "MessinaTooFew"]
        self.assertEqual(few["labels"]["severity"], "ticket")
        self.assertTrue((ROOT / few["annotations"]["runbook"].removeprefix("https://runbooks.example/")).is_file())
        # The autoscaler keeps at least two.
        summary = "Prometheus finds only 1 of 2 processes of messina in namespace messina"
        told = {"exp_labels": {"severity": "ticket", "namespace": "messina", "job": "messina"}, "exp_annotations": {**few["annotations"], "summary": summary}}
        there = {'pod="messina-0"': "1x60", 'pod="messina-1"': "1x5 0x5 _x50"}
        self.told(spec, "MessinaTooFew", there, [(10, []), (35, []), (50, [told])])

    def told(self, spec, alert, there, cases):
        """Checks at which minutes the alert fires and at which not, with these targets."""
        # Targets of other releases and namespaces do not count. A target that does not answer counts as present.
        others = [{"series": f'up{{{labels}}}', "values": "1x60"} for labels in ('namespace="messina", job="messina-eu"', 'namespace="eu", job="messina"')]
        series = [{"series": f'up{{namespace="messina", job="messina", {labels}}}', "values": values} for labels, values in there.items()]
        tests = {
            "rule_files": ["rules.yaml"],
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [*others, *series],
                    "alert_rule_test": [{"alertname": alert, "eval_time": f"{at}m", "exp_alerts": fires} for at, fires in cases],
                }
            ],
        }
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "rules.yaml").write_text(yaml.safe_dump(spec))
            (Path(folder) / "tests.yaml").write_text(yaml.safe_dump(tests))
            tested = subprocess.run([prometheus() / "promtool", "test", "rules", "tests.yaml"], capture_output=True, text=True, cwd=folder)
            self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)

    if os.environ.get("MESSINA_TEST_LONG"):

        @classmethod
        def setUpClass(cls):
            with tempfile.TemporaryDirectory() as folder:  # builds helm
                subprocess.run(["bash", DEPLOY / "render", folder], check=True)

        def test_an_older_charts_values_are_rendered(self):
            of_now = rendered("messina", keda={"enabled": True}, monitoring={"podMonitor": {"enabled": True}, "rules": {"enabled": True}})
            with tempfile.TemporaryDirectory() as folder:
                chart = shutil.copytree(DEPLOY / "helm/messina", Path(folder) / "messina")
                for key, values in aged():
                    (chart / "values.yaml").write_text(yaml.safe_dump(values))
                    made = rendered("messina", chart, keda={"enabled": True}, monitoring={"podMonitor": {"enabled": True}, "rules": {"enabled": True}})
                    self.assertEqual(made, of_now, f"without {key}")
            # 0 is not taken for a default: the next old pod goes as soon as the new one is ready.
            self.assertEqual(rendered("messina", minReadySeconds=0)["Deployment"]["spec"]["minReadySeconds"], 0)

        def test_the_cluster_may_choose_the_user(self):
            """OpenShift's restricted-v2 refuses pods that name a user, unless it is in their namespace's range."""
            for ids in ({}, {"runAsUser": 1000660000, "runAsGroup": 0, "fsGroup": 1000660000}):
                made = rendered("messina", podSecurity=ids)
                for pod in (made["Deployment"]["spec"]["template"]["spec"], made["Pod"]["spec"]):
                    self.assertEqual(pod["securityContext"], {**ids, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}})

        def test_a_policy_without_ports_opens_dns_alone(self):
            rules = rendered("messina", networkPolicy={"egressPorts": []})["NetworkPolicy"]["spec"]["egress"]
            self.assertEqual([{to["port"] for to in rule["ports"] or []} for rule in rules], [{53, 5353}])

        def test_it_listens_where_the_values_say(self):
            for listen in ("0.0.0.0:9090", "[::]:9090"):
                [container] = rendered("messina", listen=listen)["Deployment"]["spec"]["template"]["spec"]["containers"]
                self.assertIn({"name": "MESSINA__HTTP__LISTEN", "value": listen}, container["env"])

        def test_the_configuration_is_carried_as_it_is(self):
            names = set()
            # The first line of the second one is indented.
            for config in ('[kafka]\nbrokers = "a:9092"\n', '  [kafka]\nbrokers = "a:9092"\n'):
                held = rendered("e" * 53, config=config)["ConfigMap"]
                self.assertEqual(held["data"], {"messina.toml": config})
                names.add(held["metadata"]["name"])
            self.assertEqual(len(names), 2)

        def test_a_statefulset_of_a_long_name_gets_pods(self):
            for release in ("e" * 53, "messina-" + "e" * 45, "e" * 46 + "messina"):
                name = rendered(release, kind="statefulset")["StatefulSet"]["metadata"]["name"]
                # The controller labels pods with NAME-HASH, a hash of ten digits, and a label's value is limited to 63 characters.
                self.assertLessEqual(len(name) + 11, 63, name)
                self.assertIn("messina", name)

        def test_there_are_no_more_processes_than_partitions(self):
            monitoring = {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}
            made = rendered("messina", keda={"enabled": True, "partitions": 1}, monitoring=monitoring)
            scaled = made["ScaledObject"]["spec"]
            self.assertEqual((scaled["minReplicaCount"], scaled["maxReplicaCount"]), (1, 1))
            self.assertRegex(made["PrometheusRule"]["spec"]["groups"][-1]["rules"][1]["expr"], " < 1$")
            # KEDA's minimum is not the chart's.
            made = rendered("messina", replicas=7, keda={"minReplicas": 3}, monitoring=monitoring)
            self.assertRegex(made["PrometheusRule"]["spec"]["groups"][-1]["rules"][1]["expr"], " < 7$")

        def test_other_names_and_kinds_are_asked_for_too(self):
            monitoring = {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}
            for release, name in (("enrichment", "enrichment-messina"), ("messina-eu", "messina-eu"), ("e" * 53, "e" * 44 + "-messina")):
                made = rendered(release, monitoring=monitoring)
                self.assertEqual(made["Deployment"]["metadata"]["name"], name)
                [endpoint] = made["PodMonitor"]["spec"]["podMetricsEndpoints"]
                self.assertEqual(endpoint["relabelings"], [{"targetLabel": "job", "replacement": name}])
                absent, few = made["PrometheusRule"]["spec"]["groups"][-1]["rules"]
                self.assertEqual(absent["expr"], f'absent(up{{namespace="streams", job="{name}"}})')
                self.assertEqual(few["expr"], f'count by (namespace, job) (up{{namespace="streams", job="{name}"}}) < 2')
            # Without a monitor of the chart, the job's name is unknown.
            groups = rendered("enrichment", monitoring={"rules": {"enabled": True}})["PrometheusRule"]["spec"]["groups"]
            self.assertNotIn("messina.presence", [group["name"] for group in groups])
            query = rendered("messina", keda={"enabled": True})["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"]
            pattern = re.search(r'pod=~"([^"]*)"', query).group(1)
            # A long name and its hash are cut, and the last part follows without a dash.
            for pod, of_it in (("messina-7c9f8b6d5-x2x4z", True), ("messina-7c9x2x4z", True), ("messina-eu-7c9f8b6d5-x2x4z", False), ("messina-eu-0", False)):
                self.assertEqual(bool(re.fullmatch(pattern, pod)), of_it, pod)

    def test_dashboards_are_carried_whole(self):
        values = yaml.safe_load((DEPLOY / "kubernetes/everything.values.yaml").read_text())
        carried = {}
        for document in documents("everything.yaml"):
            dashboards = {key: json.loads(text) for key, text in document.get("data", {}).items() if key.endswith(".json")}
            if dashboards:
                self.assertEqual(document["metadata"]["annotations"], {"grafana_folder": values["monitoring"]["dashboards"]["folder"]})
            carried |= dashboards
        self.assertEqual(carried, {path.name: json.loads(path.read_text()) for path in (ROOT / "dashboards").glob("*.json")})

    def test_keda_scales_up_to_the_partitions(self):
        scaled = one("everything.yaml", "ScaledObject")["spec"]
        values = yaml.safe_load((DEPLOY / "helm/messina/values.yaml").read_text())
        self.assertEqual(scaled["maxReplicaCount"], values["keda"]["partitions"])
        workload = one("everything.yaml", "StatefulSet")
        self.assertNotIn("replicas", workload["spec"], "the autoscaler's number and the chart's would fight")
        self.assertEqual(scaled["scaleTargetRef"]["name"], workload["metadata"]["name"])
        # No data would count as no lag and remove pods during an outage.
        self.assertEqual(scaled["triggers"][0]["metadata"]["ignoreNullValues"], "false")
        # test_prometheus.py checks that the query returns data.
        query = scaled["triggers"][0]["metadata"]["query"]
        self.assertRegex(query, r"^sum\(messina_lag_records\{")
        pattern = re.search(r'pod=~"([^"]*)"', query).group(1)
        for pod, of_it in (("messina-0", True), ("messina-12", True), ("messina-eu-0", False), ("messina-eu-7c9f8b6d5-x2x4z", False)):
            self.assertEqual(bool(re.fullmatch(pattern, pod)), of_it, pod)

    def test_keda_is_told_nothing_while_stop_above_has_stopped_any(self):
        query = one("everything.yaml", "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
        series = [
            # The second pod's consumers of p are stopped until the end of the fifth minute. Another release's pods are ignored.
            ("messina_lag_records", "messina-0", "p", "1000000x10 _x5"),
            ("messina_lag_records", "messina-1", "p", "1000000x10 _x5"),
            ("messina_lag_records", "messina-1", "q", "7x10 _x5"),
            ("messina_dead_letter_stop", "messina-0", "p", "0x10 _x5"),
            ("messina_dead_letter_stop", "messina-1", "p", "2x5 0x4 _x5"),
            ("messina_dead_letter_stop", "messina-1", "q", "0x10 _x5"),
            ("messina_lag_records", "messina-eu-0", "p", "1000000x10 _x5"),
        ]
        labels = 'namespace="messina", pod="{}", pipeline="{}"'
        more = {"messina_lag_records": ', topic="t", partition="0"', "messina_dead_letter_stop": ""}
        input_series = [{"series": f"{name}{{{labels.format(pod, of)}{more[name]}}}", "values": values} for name, pod, of, values in series]
        cases = [("3m", []), ("8m", [2000007]), ("30m", [])]
        asked = [{"expr": query, "eval_time": at, "exp_samples": [{"labels": "{}", "value": value} for value in found]} for at, found in cases]
        with tempfile.TemporaryDirectory() as folder:
            tests = {"tests": [{"interval": "1m", "input_series": input_series, "promql_expr_test": asked}]}
            (Path(folder) / "tests.yaml").write_text(yaml.safe_dump(tests))
            tested = subprocess.run([prometheus() / "promtool", "test", "rules", "tests.yaml"], capture_output=True, text=True, cwd=folder)
            self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)


def one_of_name(name, kind, key):
    found = [document["data"][key] for document in documents(name) if document["kind"] == kind and key in document["data"]]
    assert len(found) == 1, f"{name}: {len(found)} with {key}"
    return found[0]


class Image(unittest.TestCase):
    def test_hadolint_is_content(self):
        from sys import executable

        hadolint = Path(executable).parent / "hadolint"
        linted = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
        self.assertEqual(linted.returncode, 0, linted.stdout + linted.stderr)

    def test_what_the_page_builds_is_what_the_chart_runs(self):
        import tomllib

        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        chart, values = (yaml.safe_load((DEPLOY / "helm/messina" / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
        self.assertEqual(chart["appVersion"], version)
        self.assertEqual(re.findall(r"^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text(), re.M), [version])
        [build] = re.findall(r"^ *docker build (.*)$", (ROOT / "docs/operations.md").read_text(), re.M)
        self.assertEqual(re.findall(r"--tag (\S+)", build), [f"{values['image']['repository']}:{version}"])
        self.assertEqual(re.findall(r"VERSION=(\S+)", build), [version])

    def test_the_binary_knows_its_revision_and_the_dependencies_do_not(self):
        dockerfile = (ROOT / "Dockerfile").read_text()
        dependencies, named, program = (
            dockerfile.index(text) for text in ("RUN mkdir -p src", "ARG REVISION=unknown\nENV MESSINA_REVISION=${REVISION}\n", "RUN find src")
        )
        self.assertLess(dependencies, named)
        self.assertLess(named, program)

    def test_the_image_has_what_the_build_copies(self):
        ignored = (ROOT / ".dockerignore").read_text().split()
        for source in re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.M):
            for name in source.split():
                self.assertTrue((ROOT / name).exists(), name)
                self.assertIn(f"!{name}", ignored)

    def test_the_image_has_what_cargo_and_the_compiler_ask_for(self):
        """Targets that the manifest names, and texts that the program includes, must exist."""
        import tomllib

        dockerfile = (ROOT / "Dockerfile").read_text()
        manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
        for kind, folder in (("example", "examples"), ("bench", "benches"), ("test", "tests")):
            for target in manifest.get(kind, []):
                path = target.get("path", f"{folder}/{target['name']}/main.rs")
                self.assertIn(f" {path} ", dockerfile, "cargo builds nothing where a target of the manifest is away")
        copied = {source for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.M) for source in sources.split()}
        for path in (ROOT / "src").rglob("*.rs"):
            # Code behind cfg(test) is not compiled there.
            for name in re.findall(r'include_(?:str|bytes)!\("((?:\.\./)+docs/[^"]*)"\)', path.read_text().split("#[cfg(test)]")[0]):
                self.assertIn(os.path.relpath((path.parent / name).resolve(), ROOT), copied, path.name)


if __name__ == "__main__":
    unittest.main()
