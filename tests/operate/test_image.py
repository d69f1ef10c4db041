"""The image that the Dockerfile builds, and its containers as the manifests start them. Long form only, because it needs a release build from nothing."""

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import unittest
from pathlib import Path

import yaml
from operate import CACHE, HERE, ROOT, skip, until

# No service answers at these addresses: `run` lives, and is not ready.
CONFIG = """
[kafka]
brokers = "127.0.0.1:9"

[registry]
url = "http://127.0.0.1:9"

[pipelines.copy.source]
topics = ["in"]
group = "copy"

[pipelines.copy.sink]
topic = "out"
"""


def reason_to_skip():
    """Why the image cannot be built on this machine, or None."""
    if os.geteuid() != 0:
        return "the image is built by root only"
    absent = [name for name in ("buildah", "mmdebstrap", "crun") if not shutil.which(name)]
    if absent and not shutil.which("apt-get"):
        return f"neither {', '.join(absent)} nor apt-get is there to build and run the image"
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        options = []
        for name in ("lowerdir", "upperdir", "workdir"):
            Path(folder, name).mkdir()
            options.append(f"{name}={folder}/{name}")
        # In its own mount namespace, which removes the mount when it ends.
        tried = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", ",".join(options), f"{folder}/lowerdir"]
        mounted = subprocess.run(tried, capture_output=True, text=True)
        if mounted.returncode != 0:
            return f"buildah needs an overlay file system, and none can be mounted: {mounted.stderr.strip()}"
    return None


def pod():
    """What the manifests specify for a pod and its container."""
    for document in yaml.safe_load_all((ROOT / "deploy/kubernetes/messina.yaml").read_text()):
        if document and document["kind"] in ("Deployment", "StatefulSet"):
            return document["spec"]["template"]["spec"]
    raise AssertionError("no workload")


if os.environ.get("MESSINA_TEST_LONG"):

    class Image(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            cls.reason = reason_to_skip()
            if cls.reason:
                return
            # So that an interrupted run leaves nothing, either: folders are removed at exit.
            before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            cls.addClassCleanup(signal.signal, signal.SIGTERM, before)
            if kept := os.environ.get("MESSINA_TEST_IMAGE"):
                cls.folder = Path(kept).resolve()
            else:
                temporary = tempfile.TemporaryDirectory(dir=CACHE, prefix="image-")
                cls.addClassCleanup(temporary.cleanup)
                cls.folder = Path(temporary.name)
            began = time.monotonic()
            with subprocess.Popen(["bash", HERE / "image", cls.folder]) as build:
                try:
                    code = build.wait()
                except BaseException:
                    build.terminate()
                    raise
            assert code == 0, f"tests/operate/image ended with {code}"
            image = cls.folder / "messina"
            manifest = json.loads((image / "manifest.json").read_text())

            def blob(entry):
                return image / entry["digest"].removeprefix("sha256:")

            cls.config = json.loads(blob(manifest["config"]).read_text())["config"]
            # The stand-in for the base image is one layer.
            base, *cls.added = [blob(layer) for layer in manifest["layers"]]
            cls.root = cls.folder / "root"
            shutil.rmtree(cls.root, ignore_errors=True)
            cls.root.mkdir()
            for layer in (base, *cls.added):
                subprocess.run(["tar", "--extract", "--gzip", "--numeric-owner", "--file", layer, "--directory", cls.root], check=True)
            packed = sum(layer.stat().st_size for layer in cls.added)
            binary = (cls.root / "usr/local/bin/messina").stat().st_size
            print(
                f"the image: {len(cls.added)} layers on its base, {packed / 1e6:.1f} MB packed; the binary has {binary / 1e6:.1f} MB;"
                f" {(time.monotonic() - began) / 60:.0f} minutes",
                flush=True,
            )

        def setUp(self):
            if self.reason:
                skip(self, self.reason)

        @contextlib.contextmanager
        def container(self, *arguments, config=None):
            """(name, process, text of "out" or "err") of a container as the manifests have it: a read-only root, no capabilities, 64 MiB of /tmp."""
            user, group = (int(number) for number in self.config["User"].split(":"))
            mounts = [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=64m"]},
            ]
            with tempfile.TemporaryDirectory(dir=self.folder) as bundle:
                bundle = Path(bundle)
                if config:
                    file = bundle / "messina.toml"
                    file.write_text(config)
                    target = "/etc/messina/messina.toml"
                    mounts.append({"destination": target, "type": "bind", "source": str(file), "options": ["bind", "ro"]})
                specification = {
                    "ociVersion": "1.0.2",
                    "process": {
                        "user": {"uid": user, "gid": group},
                        "args": [*self.config["Entrypoint"], *(arguments or self.config["Cmd"])],
                        "env": self.config["Env"],
                        "cwd": self.config.get("WorkingDir") or "/",
                        "capabilities": {},
                        "noNewPrivileges": True,
                    },
                    "root": {"path": str(self.root), "readonly": True},
                    "mounts": mounts,
                    # Its own network: it listens on nothing outside, and reaches nobody.
                    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "network", "ipc", "uts")]},
                }
                (bundle / "config.json").write_text(json.dumps(specification))
                name = f"messina-{os.getpid()}"
                with open(bundle / "out", "w") as out, open(bundle / "err", "w") as err:
                    process = subprocess.Popen([*self.crun(), "run", "--bundle", bundle, name], stdout=out, stderr=err)
                    try:
                        yield name, process, lambda stream: (bundle / stream).read_text()
                    finally:
                        # Repeated, because the container may not exist yet.
                        while process.poll() is None:
                            subprocess.run([*self.crun(), "delete", "--force", name], capture_output=True)
                            time.sleep(0.2)

        def crun(self):
            # crun needs no control groups here, and refuses to start if both versions of them are mounted, so they are hidden from it.
            hidden = 'mount -t tmpfs tmpfs /sys/fs/cgroup && exec "$0" "$@"'
            return ["unshare", "--mount", "bash", "-c", hidden, "crun", "--root", self.folder / "crun", "--cgroup-manager", "disabled"]

        def test_what_the_image_says_of_itself(self):
            wanted = pod()["securityContext"]
            self.assertEqual(self.config["User"], f"{wanted['runAsUser']}:{wanted['runAsGroup']}")
            package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
            labels = {name.removeprefix("org.opencontainers.image."): value for name, value in self.config["Labels"].items()}
            self.assertEqual(labels["title"], package["name"])
            self.assertEqual(labels["version"], package["version"])
            self.assertEqual(labels["licenses"], package["license"])
            self.assertEqual(labels["revision"], "tested", "the build's argument")
            self.assertTrue(labels["description"])
            self.assertEqual(self.config["Healthcheck"]["Test"], ["CMD", *self.config["Entrypoint"], "health"])
            self.assertEqual(list(self.config["ExposedPorts"]), ["9090/tcp"])
            # Nothing from the build machine: no proxy, no registry.
            names = {variable.split("=", 1)[0] for variable in self.config["Env"]}
            self.assertLessEqual(names, {"PATH", "MESSINA__HTTP__LISTEN"})

        def test_it_adds_the_binary_and_papers_to_its_base(self):
            files = set()
            for layer in self.added:
                with tarfile.open(layer) as archive:
                    files |= {entry.name for entry in archive if not entry.isdir()}
            papers = ("LICENSE-APACHE", "LICENSE-MIT", "messina.cdx.json")
            self.assertEqual(files, {"usr/local/bin/messina", *(f"usr/share/messina/{name}" for name in papers)})
            binary = (self.root / "usr/local/bin/messina").read_bytes()
            self.assertIn(b"\0.symtab\0", binary, "functions have no names in backtraces")
            self.assertNotIn(b"\0.debug_info\0", binary, "debugging information is most of the image")
            # Docker also compresses layers with gzip.
            self.assertLess(len(gzip.compress(binary, 6)), 20e6)

        def test_the_bill_of_materials_has_what_cargo_builds_in(self):
            bill = json.loads((self.root / "usr/share/messina/messina.cdx.json").read_text())
            self.assertEqual((bill["bomFormat"], bill["metadata"]["component"]["name"]), ("CycloneDX", "messina"))
            listed = {(component["name"], component["version"]): component for component in bill["components"]}
            tree = ["cargo", "tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]
            lines = subprocess.run(tree, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
            built = {(name, version.removeprefix("v")) for name, version, *_ in (line.split() for line in lines if line)}
            self.assertGreater(len(built), 200)
            self.assertEqual({crate for crate in built if crate[0] != "messina"} - listed.keys(), set())
            locked = {
                (package["name"], package["version"]): package.get("checksum")
                for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
            }
            for crate, component in listed.items():
                self.assertEqual([each["content"] for each in component["hashes"]], [locked[crate]], crate)
                self.assertTrue(component["licenses"], crate)
            # The C libraries that these crates contain, with their versions.
            self.assertLessEqual({"rdkafka-sys", "openssl-src", "libsqlite3-sys"}, {name for name, _ in listed})

        def test_the_demo_runs_in_it(self):
            with self.container("demo", "--records", "20000", "--json") as (_, process, text):
                self.assertEqual(process.wait(timeout=1200), 0, text("out") + text("err"))
                self.assertIs(json.loads(text("out").splitlines()[-1])["ok"], True, text("out"))

        def test_it_lives_is_asked_for_its_health_and_stops(self):
            with self.container(config=CONFIG) as (name, process, text):
                health = [*self.crun(), "exec", name, *self.config["Healthcheck"]["Test"][1:]]

                def lives():
                    self.assertIsNone(process.poll(), text("err"))
                    return subprocess.run(health, capture_output=True).returncode == 0

                until("messina health", lives)
                # The health check can fail: there are no brokers.
                ready = subprocess.run([*health, "--ready"], capture_output=True, text=True)
                self.assertEqual(ready.returncode, 69, ready.stdout + ready.stderr)
                state = json.loads(subprocess.run([*self.crun(), "state", name], check=True, capture_output=True, text=True).stdout)
                proc = Path("/proc", str(state["pid"]))
                status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
                self.assertEqual(set(status["Uid"].split()), {self.config["User"].split(":")[0]})
                self.assertEqual(int(status["CapEff"], 16) | int(status["CapBnd"], 16), 0)
                self.assertEqual(status["NoNewPrivs"], "1")
                roots = [fields for fields in map(str.split, (proc / "mountinfo").read_text().splitlines()) if fields[4] == "/"]
                self.assertIn("ro", roots[-1][5].split(","))
                subprocess.run([*self.crun(), "kill", name, "TERM"], check=True)
                self.assertEqual(process.wait(timeout=120), 0, text("err"))


if __name__ == "__main__":
    unittest.main()
