"""deploy/compose.yaml conforms to the specification; its files exist, addresses agree, and commands and configuration work."""

import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import tomllib
import unittest
import uuid
from pathlib import Path

import yaml
from operate import HERE, ROOT, free_port, get, metric, prometheus, services_or_skip, until

FILE = ROOT / "deploy/compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]
# Ports of servers whose configuration does not name them; taken from their documentation.
PORTS = {"scylla": 9042, "mongo": 27017, "prometheus": 9090, "grafana": 3000}


def mounts(service):
    """(place on the host, place in the container) of all files and folders mounted."""
    for entry in SERVICES[service].get("volumes", []):
        source, target, *_ = entry.split(":")
        if source.startswith("."):
            yield (FILE.parent / source).resolve(), target


def on_the_host(service, path):
    """The file on the host that is at `path` in the container."""
    for source, target in mounts(service):
        if path == target or path.startswith(target + "/"):
            return source / path[len(target) + 1 :] if path != target else source
    raise AssertionError(f"{service}: nothing is mounted at {path}")


def ports(service):
    """The ports that a service listens on."""
    if service in PORTS:
        return {PORTS[service]}
    environment = SERVICES[service].get("environment", {})
    listeners = environment.get("KAFKA_LISTENERS") or environment.get("SCHEMA_REGISTRY_LISTENERS")
    if listeners:
        return {int(port) for port in re.findall(r":(\d+)", listeners)}
    listen = tomllib.loads(on_the_host("messina", "/etc/messina/compose.toml").read_text())["http"]["listen"]
    return {int(listen.rsplit(":", 1)[1])}


def configurations():
    """The files on the host that Messina's command names."""
    command = SERVICES["messina"]["command"]
    return [on_the_host("messina", path) for option, path in zip(command, command[1:]) if option == "--config"]


def remove(prefix, keyspace):
    """Removes topics, keyspace and database of a run."""
    from cassandra.cluster import Cluster
    from confluent_kafka.admin import AdminClient
    from pymongo import MongoClient

    admin = AdminClient({"bootstrap.servers": os.environ["KAFKA_BROKERS"]})
    topics = [name for name in admin.list_topics(timeout=20).topics if name.startswith(prefix)]
    for future in admin.delete_topics(topics).values() if topics else ():
        future.result()
    hosts, port = zip(*(node.split(":") for node in os.environ["SCYLLA_NODES"].split(",")), strict=True)
    with Cluster(hosts, port=int(port[0]), protocol_version=4) as cluster:
        cluster.connect().execute(f"DROP KEYSPACE IF EXISTS {keyspace}", timeout=120)
    with MongoClient(os.environ["MONGO_URI"]) as mongo:
        mongo.drop_database(keyspace)


class Compose(unittest.TestCase):
    def test_the_specification_takes_it(self):
        import jsonschema

        validator = jsonschema.Draft202012Validator(json.loads((HERE / "compose-spec.json").read_text()))
        self.assertEqual([f"{list(e.path)}: {e.message}" for e in validator.iter_errors(COMPOSE)], [])
        wrong = {**COMPOSE, "services": {"kafka": {**SERVICES["kafka"], "healtcheck": {}}}}
        self.assertTrue(list(validator.iter_errors(wrong)))

    def test_what_is_mounted_and_built_exists(self):
        named = {entry.split(":")[0] for s in SERVICES.values() for entry in s.get("volumes", []) if not entry.startswith(".")}
        self.assertEqual(named, set(COMPOSE["volumes"]))
        for name, service in SERVICES.items():
            for source, _ in mounts(name):
                self.assertTrue(source.exists(), f"{name}: {source}")
            build = service.get("build")
            if isinstance(build, str):
                self.assertTrue((FILE.parent / build / "Dockerfile").is_file(), name)
            if not build:
                self.assertRegex(service["image"], r"^docker\.io/.*:v?\d", f"{name}: a version")
            # Every port is published on loopback only, because nothing here has a password.
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), f"{name}: {port}")
                self.assertIn(int(port.rsplit(":", 1)[1]), ports(name), name)

    def test_what_is_waited_for_can_come(self):
        for name, service in SERVICES.items():
            waits = service.get("depends_on", {})
            for other, how in waits.items() if isinstance(waits, dict) else ():
                if how["condition"] == "service_healthy":
                    self.assertIn("healthcheck", SERVICES[other], f"{name} waits for the health of {other}")
                else:
                    self.assertEqual(how["condition"], "service_completed_successfully", name)
                    self.assertNotIn("restart", SERVICES[other], f"{name} waits for the end of {other}")

    def test_addresses_are_those_of_services(self):
        # Except images, whose tags look like ports.
        services = [{key: value for key, value in service.items() if key != "image"} for service in SERVICES.values()]
        texts = [*map(json.dumps, services), *(path.read_text() for path in (FILE.parent / "compose").rglob("*.[ty]*ml"))]
        # From processors.toml, only what the second file does not override.
        overlay = tomllib.loads(configurations()[1].read_text())
        first = tomllib.loads(configurations()[0].read_text())
        texts.append(json.dumps({section: {**first[section], **overlay.get(section, {})} for section in ("kafka", "registry", "scylla")}))
        found = set()
        for host, port in re.findall(r"(?<![\w.])([a-z]\w+):(\d{4,5})\b", "\n".join(texts)):
            if host == "localhost":
                continue
            self.assertIn(host, SERVICES, f"{host}:{port}")
            self.assertIn(int(port), ports(host), f"{host}:{port}")
            found.add(host)
        self.assertEqual(found, {"kafka", "registry", "scylla", "mongo", "messina", "prometheus"})

    def test_the_binary_takes_the_configuration(self):
        environment = {**os.environ, **SERVICES["messina"]["environment"]}
        command = [os.environ["MESSINA_BIN"], "check"]
        for path in configurations():
            command += ["--config", path]
        checked = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stderr)

    def test_prometheus_takes_its_configuration_and_loads_the_rules(self):
        config = on_the_host("prometheus", "/etc/prometheus/prometheus.yml").read_text()
        for rules in yaml.safe_load(config)["rule_files"]:
            config = config.replace(rules, str(on_the_host("prometheus", rules)))
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(config)
            file.flush()
            checked = subprocess.run([prometheus() / "promtool", "check", "config", file.name], capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertRegex(checked.stdout, r"SUCCESS: \d+ rules found")
        # MessinaDown and the dashboards' variable expect this job name.
        self.assertEqual([job["job_name"] for job in yaml.safe_load(config)["scrape_configs"]], ["messina"])

    def test_grafana_finds_its_data_and_dashboards(self):
        folder = "/etc/grafana/provisioning"
        (source,) = yaml.safe_load(on_the_host("grafana", f"{folder}/datasources/prometheus.yaml").read_text())["datasources"]
        self.assertEqual((source["type"], source["isDefault"]), ("prometheus", True))
        scraped = yaml.safe_load(on_the_host("prometheus", "/etc/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
        self.assertEqual(source["jsonData"]["timeInterval"], scraped)
        (provider,) = yaml.safe_load(on_the_host("grafana", f"{folder}/dashboards/messina.yaml").read_text())["providers"]
        self.assertEqual(on_the_host("grafana", provider["options"]["path"]), ROOT / "dashboards")
        home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertTrue(on_the_host("grafana", home).is_file())

    def test_the_tools_image_has_what_the_tests_have(self):
        wanted = (ROOT / "tests/tools/requirements.txt").read_text().split()
        for name in ("setup", "generator"):
            dockerfile = SERVICES[name]["build"]["dockerfile_inline"]
            pins = re.findall(r"\S+==\S+", dockerfile)
            self.assertEqual(len(pins), 4)
            self.assertLessEqual(set(pins), set(wanted))
            from sys import executable

            linted = subprocess.run([Path(executable).parent / "hadolint", "-"], input=dockerfile, capture_output=True, text=True)
            self.assertEqual(linted.returncode, 0, linted.stdout)

    def test_it_runs_on_other_services(self):
        """Runs the commands of setup and generator, and Messina's configuration, on the tests' services: only addresses, names and sizes differ."""
        services_or_skip(self, "KAFKA_BROKERS", "REGISTRY_URL", "SCYLLA_NODES", "MONGO_URI")
        prefix = f"compose-{uuid.uuid4().hex[:8]}-"
        keyspace = prefix.replace("-", "_").rstrip("_")
        self.addCleanup(remove, prefix, keyspace)
        small = ["--pool", "300"]
        lines = [shlex.split(line) for line in SERVICES["setup"]["command"][-1].splitlines()] + [SERVICES["generator"]["command"]]
        for _, program, *arguments in lines:
            replaced = {"tracking": keyspace, "datacenter1": "dc1", "": prefix, "7200000": "6000", "500": "100000", "0.0005": "0.002"}
            arguments = [replaced.get(argument, argument) for argument in arguments]
            arguments += {"references.py": [*small, "--database", keyspace], "produce.py": small}.get(program, [])
            folder = (FILE.parent / "compose") if program == "references.py" else (ROOT / "tests/tools")
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/tools"), "PYTHONDONTWRITEBYTECODE": "1"}
            python = os.environ["MESSINA_TEST_PYTHON"]
            done = subprocess.run([python, folder / program, *arguments], env=environment, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, f"{program}: {done.stdout}{done.stderr}")

        with tempfile.TemporaryDirectory() as folder:
            written = []
            for path in configurations():
                text = path.read_text()
                for pipeline in ("navigation", "orders", "reactions"):
                    text = re.sub(rf'"{pipeline}\b', f'"{prefix}{pipeline}', text)
                text = text.replace('"crm.', f'"{keyspace}.').replace('"datacenter1"', '"dc1"')
                written += ["--config", Path(folder) / path.name]
                written[-1].write_text(text)
            address = f"127.0.0.1:{free_port()}"
            environment = {
                **os.environ,
                "MESSINA__KAFKA__BROKERS": os.environ["KAFKA_BROKERS"],
                "MESSINA__REGISTRY__URL": os.environ["REGISTRY_URL"],
                "MESSINA__SCYLLA__NODES": json.dumps(os.environ["SCYLLA_NODES"].split(",")),
                "MESSINA__SCYLLA__KEYSPACE": keyspace,
                "MESSINA__HTTP__LISTEN": address,
            }
            log = Path(folder) / "log"
            with log.open("w") as out:
                messina = subprocess.Popen([os.environ["MESSINA_BIN"], "run", *written], env=environment, stdout=out, stderr=out)
            try:

                def all_ended():
                    self.assertIsNone(messina.poll(), f"it has ended: {log.read_text()[-3000:]}")
                    try:
                        return metric(address, "messina_records_total") >= 6000
                    except OSError:
                        return False

                until("6000 records", all_ended)
                text = get(f"http://{address}/metrics")
                messina.send_signal(signal.SIGTERM)
                self.assertEqual(messina.wait(timeout=120), 0, log.read_text()[-3000:])
            finally:
                if messina.poll() is None:
                    messina.kill()
                    messina.wait()
        for pipeline in ("navigation", "orders", "reactions"):
            published = re.search(rf'^messina_published_total{{pipeline="{pipeline}"}} (\d+)$', text, re.M)
            self.assertGreater(int(published.group(1)), 1000)
        self.assertRegex(text, r'messina_dead_letters_total{class="permanent",pipeline="\w+"} [1-9]')
        for reference in ("navigation", "reactions"):
            self.assertRegex(text, rf'messina_reference_lookups_total{{outcome="found",pipeline="{reference}",step="\w+"}} [1-9]')


if __name__ == "__main__":
    unittest.main()
