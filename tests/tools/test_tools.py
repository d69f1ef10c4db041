"""The tools themselves: what they take for granted of one another, without any service. Run by ./test."""

import json
import pathlib
import tomllib
import types
import unittest

import bad
import generate
import pipelines
import pool
import profiles
import schema

FRAME = b"\0\0\0\0\7"
THREE = pathlib.Path(__file__).resolve().parent.parent / "e2e" / "three.toml"


def a_pool(pipeline, seed=1, size=200):
    return pool.Pool(pipeline, types.SimpleNamespace(seed=seed, pool=size))


def decodes(parsed, datum):
    try:
        pool.decode(parsed, datum)
        return True
    except Exception:  # fastavro has no class of its own for bytes that it cannot read
        return False


class Pools(unittest.TestCase):
    def test_each_record_has_its_number_in_its_id_and_its_user(self):
        for p in pipelines.PIPELINES:
            records = a_pool(p)
            for number in (0, 1, 199, 200, 1_000_000):
                record = pool.decode(records.schema, records.datum(number))
                self.assertEqual(pipelines.at(record, p.id), f"{records.prefix}{number:012x}")
                self.assertEqual(pipelines.at(record, p.user), records.user(number))

    def test_records_with_the_same_place_in_the_pool_differ_in_their_id_alone(self):
        for p in pipelines.PIPELINES:
            records = a_pool(p)
            one, other = (pool.decode(records.schema, records.datum(n)) for n in (5, 205))
            self.assertEqual({**one, p.id: ""}, {**other, p.id: ""})

    def test_a_seed_gives_the_same_records_again_and_another_seed_others(self):
        p = pipelines.PIPELINES[1]
        self.assertEqual(a_pool(p, 3).entries, a_pool(p, 3).entries)
        self.assertNotEqual(a_pool(p, 3).entries, a_pool(p, 4).entries)

    def test_every_union_branch_of_the_top_level_occurs(self):
        for p in pipelines.PIPELINES:
            records = a_pool(p)
            seen = {}
            for number in range(200):
                for name, value in pool.decode(records.schema, records.datum(number)).items():
                    seen.setdefault(name, set()).add(value[0] if isinstance(value, tuple) else value is None)
            for field in json.loads(p.text())["fields"]:
                if isinstance(field["type"], list):
                    self.assertGreaterEqual(len(seen[field["name"]]), min(2, len(field["type"])), field["name"])


class BadRecords(unittest.TestCase):
    def test_what_can_never_succeed_cannot_be_decoded(self):
        for p in pipelines.PIPELINES:
            records = a_pool(p)
            for kind in bad.DEAD:
                value = bad.value(kind, 1, records, FRAME)
                self.assertFalse(value[:5] == FRAME and decodes(records.schema, value[5:]), f"{p.name}: {kind}")

    def test_a_large_record_is_valid(self):
        for p in pipelines.PIPELINES:
            records = a_pool(p)
            value = bad.value("large", 0, records, FRAME)
            self.assertGreater(len(value), bad.LARGE)
            record = pool.decode(records.schema, value[5:])
            self.assertEqual(pipelines.at(record, p.id), f"{records.prefix}{bad.APART:012x}")

    def test_the_key_tells_the_kind(self):
        for kind in bad.KINDS:
            self.assertEqual(bad.kind_of(bad.key(kind, 3)), kind)
        self.assertIsNone(bad.kind_of(b"u0000001"))


class Agreements(unittest.TestCase):
    def test_the_counts_add_up(self):
        options = pipelines.arguments("").parse_args(["--records", "1001", "--orders", "7"])
        self.assertEqual(pipelines.counts(options), {"navigation": 501, "orders": 7, "reactions": 250})

    def test_about_one_user_in_ten_has_no_profile(self):
        missing = sum(profiles.profile(profiles.user_id(n)) is None for n in range(1, pipelines.USERS + 1))
        self.assertAlmostEqual(missing / pipelines.USERS, 0.1, delta=0.01)

    def test_the_configuration_names_the_topics_and_tables_of_the_tools(self):
        config = tomllib.loads(THREE.read_text(encoding="utf-8"))
        for p in pipelines.PIPELINES:
            section = config["pipelines"][p.name]
            self.assertEqual(section["source"]["topics"], [p.topic("e2e-")])
            self.assertEqual(section["source"]["group"], p.topic("e2e-", "-enrichment"))
            self.assertEqual(section["sink"]["topic"], p.topic("e2e-", "-enriched"))
            self.assertEqual(section["dead_letter"]["topic"], p.topic("e2e-", "-dead-letters"))
            self.assertEqual(section["source"].get("on_tombstone", "skip"), p.tombstones)
            self.assertEqual(section["order"], "key" if p.ordered else "none")
            self.assertIn(p.table.name, section["steps"][1]["write"])

    def test_schemas_are_equal_however_they_are_written(self):
        inner = {"type": "fixed", "name": "Id", "size": 4}
        one = {"type": "record", "name": "R", "namespace": "n", "doc": "d", "fields": [{"name": "a", "type": inner}, {"name": "b", "type": "Id"}]}
        other = {"type": "record", "name": "n.R", "fields": [{"name": "a", "type": {**inner, "name": "n.Id"}}, {"name": "b", "type": "n.Id"}]}
        self.assertEqual(schema.canonical(one, set()), schema.canonical(other, set()))
        self.assertNotEqual(schema.canonical(one, set()), schema.canonical(schema.strip({**one, "name": "S"}), set()))
        self.assertEqual(schema.canonical(one, {"n.R"}), "n.R")

    def test_drawn_decimals_fit_their_precision(self):
        kind = {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}
        drawn = generate.Generator({"type": "record", "name": "R", "fields": [{"name": "d", "type": kind}]}, 1)
        for _ in range(500):
            self.assertLess(abs(int.from_bytes(drawn.record()["d"], "big", signed=True)), 10**8)


if __name__ == "__main__":
    unittest.main()
