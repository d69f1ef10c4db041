"""The measurements themselves, without any service: that their runs end, and what their figures are called."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

BENCHES = pathlib.Path(__file__).resolve().parent.parent.parent / "benches"
# As many as the peers' generator makes.
MESSAGES = 100_000


def module(path):
    """A module of the measurements, which is given another name here: some are called as ours are."""
    spec = importlib.util.spec_from_file_location(f"benches_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Stubbed(unittest.TestCase):
    """With modules of the peers, which are no part of this repository, that do nothing."""

    def setUp(self):
        peers = types.SimpleNamespace(register=lambda *_: 7, read=lambda _: [(b"k", b"d")] * MESSAGES, fresh_id=lambda datum, _: datum, fresh_topic=mock.Mock())
        environment = {"PEERS": "", "PEERS_BUILD": "", "PY": "", "DIVIDE": "1", "KAFKA_BOOTSTRAP": ""}
        for patch in (
            mock.patch.dict(os.environ, environment),
            mock.patch.dict(sys.modules, {"load": peers, "bench": peers}),
            mock.patch.object(sys, "path", [str(BENCHES / "e2e"), str(BENCHES / "tail_latency"), *sys.path]),
        ):
            patch.start()
            self.addCleanup(patch.stop)


class Scale(Stubbed):
    def setUp(self):
        super().setUp()
        self.scale = module(BENCHES / "e2e/scale.py")

    def runs(self, kind, divide):
        """For each run how many records it waits for, and how many its topic was filled with."""
        filled, waited = {}, []
        run = mock.Mock(side_effect=lambda _, env, check: waited.append((int(env["N"]), filled[env["IN_TOPIC"]])))
        fill = mock.Mock(side_effect=lambda topic, _, n, records: filled.update({topic: n}))
        with mock.patch.multiple(self.scale, DIVIDE=divide, fill=fill), mock.patch.object(self.scale.subprocess, "run", run):
            for setting in list(kind()):
                setting()
        return waited

    def test_no_run_waits_for_more_records_than_its_topic_has(self):
        for divide in range(1, 101):
            for kind in (self.scale.records, self.scale.partitions, self.scale.size):
                for waits, has in self.runs(kind, divide):
                    self.assertLessEqual(waits, has, f"{kind.__name__}, DIVIDE={divide}")

    def test_a_topic_with_fewer_records_is_filled_anew(self):
        for has, anew in ((0, True), (1, True), (2, False), (3, False)):
            with (
                mock.patch.multiple(self.scale, count=lambda _, has=has: has, Producer=mock.DEFAULT) as patched,
                mock.patch.object(self.scale.bench, "fresh_topic") as fresh,
                contextlib.redirect_stderr(io.StringIO()),
            ):
                self.scale.fill("t", 5, 2, [(b"k", b"1"), (b"k", b"2")])
            produced = patched["Producer"].return_value.produce.call_count
            self.assertEqual((fresh.call_count, produced), (1, 2) if anew else (0, 0), has)


class Tail(Stubbed):
    def test_what_never_warms_up_ends(self):
        tail = module(BENCHES / "tail_latency/tail.py")
        ended = mock.Mock()
        ended.sample.side_effect = SystemExit("ended")
        for stack, says in ((ended, "ended"), (mock.Mock(), "0 records after 0 s, and not 10000")):
            stubs = {"WARM": 0, "delay": mock.Mock(), "Load": mock.Mock(), "Counter": lambda _: lambda: 0, "Messina": lambda _, stack=stack: stack}
            with mock.patch.multiple(tail, **stubs), self.assertRaisesRegex(SystemExit, says):
                tail.measured("messina-512", 15, 2000, 7)
            stack.stop.assert_called_once()


class Sizing(Stubbed):
    def test_a_model_that_is_far_off_fails(self):
        sizing = module(BENCHES / "e2e/sizing.py")
        job = ("", "events-bulk", 617, 1, "out", 0, 512)
        for worst, ends in ((1.1, False), (1.4, True)):
            cost = {"one": 1.0, "two": 1.0, "three": worst}
            stubs = {
                "settings": lambda cost=cost: [(label, *job) for label in cost],
                "measured": lambda label, *_, cost=cost: {"cpu_us_per_msg_2nd_half": cost[label]},
                "estimated": lambda *_: 1.0,
            }
            out = io.StringIO()
            with mock.patch.multiple(sizing, **stubs), contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                with self.assertRaises(SystemExit) if ends else contextlib.nullcontext():
                    sizing.main(1)
            self.assertEqual(json.loads(out.getvalue())["worst_percent"] > 20, ends)


class Table(unittest.TestCase):
    def test_each_job_has_a_figure_of_its_own(self):
        table = module(BENCHES / "e2e/table.py")
        cost = {"messina": 9.0, "messina-cached": 7.0, "messina-grouped": 5.0, "go": 27.0}
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as results:
            for stack, us in cost.items():
                line = {"norm_cpu_us_per_msg_2nd_half": us, "cpu_us_per_msg_2nd_half": us, "max_rss_mb": 80, "e2e_p50_us": 1, "e2e_p99_us": 2}
                results.write(json.dumps({"stack": stack, **line}) + "\n")
            results.flush()
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                table.compare(results.name)
        figures = json.loads(out.getvalue())
        self.assertEqual([figures[f"cpu_us_{job}"] for job in ("plain", "cached", "grouped")], [9.0, 7.0, 5.0])
        self.assertEqual(figures["vs_go"], 3.0)


if __name__ == "__main__":
    unittest.main()
