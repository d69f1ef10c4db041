"""The JSON Schema of the configuration against the files of this repository, by a validator that is not ours.

What `check` accepts the schema accepts. What `check` refuses for its shape, as the snapshots of its findings tell, the schema refuses.
"""

import json
import re
import tomllib
import unittest
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parent.parent.parent
# Unknown keys, wrong types, words and kinds of steps.
OF_SHAPE = {"MES0101", "MES0103", "MES0104", "MES0107"}


def validator():
    schema = json.loads((ROOT / "config/messina.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def refusals(text):
    return [error.message[:300] for error in validator().iter_errors(tomllib.loads(text))]


class Schema(unittest.TestCase):
    def test_examples_are_accepted_and_name_their_schema(self):
        examples = [path for path in sorted((ROOT / "config").glob("*.toml")) if not path.name.endswith(".test.toml")]
        self.assertGreaterEqual(len(examples), 2)
        for path in examples:
            text = path.read_text()
            self.assertTrue(text.startswith("#:schema ./messina.schema.json\n"), path.name)
            self.assertEqual(refusals(text), [], path.name)
        self.assertEqual(refusals((ROOT / "tests/e2e/three.toml").read_text()), [])

    def test_broken_files_are_refused_where_their_shape_is_wrong(self):
        refused = accepted = 0
        for path in sorted((ROOT / "tests/config/broken").glob("*.toml")):
            snapshot = (ROOT / f"tests/snapshots/check_config__{path.stem}.snap").read_text()
            codes = set(re.findall(r"error\[(MES\d+)\]", snapshot))
            if "MES0002" in codes:
                continue  # It is no TOML.
            found = refusals(path.read_text())
            shape = codes & OF_SHAPE
            if shape:
                self.assertNotEqual(found, [], f"{path.name} has {sorted(codes)}")
                refused += 1
            elif not codes & {"MES0102", "MES0105", "MES0203"}:
                self.assertEqual(found, [], f"{path.name} has only {sorted(codes)}")
                accepted += 1
        self.assertGreaterEqual(refused, 8)
        self.assertGreaterEqual(accepted, 8)

    def test_single_mistakes_are_refused(self):
        sound = (ROOT / "config/example.toml").read_text()
        self.assertEqual(refusals(sound), [])
        for right, wrong in [
            ('ttl = "30d"', 'ttl = "30 days"'),
            ('ttl = "30s"', 'ttl = "0s"'),
            ('max_bytes = "64MiB"', 'max_bytes = "64 MiX"'),
            ('max_in_flight = 1024', 'max_in_flight = "many"'),
            ('order = "key"', 'order = "keys"'),
            ('failover = true\n', 'failover = "true"\n'),
            ('password = { file =', 'password = { path ='),
            ('group = "navigation-enrichment"', ''),
            ('topic = "navigation-enriched"', 'topics = "navigation-enriched"'),
            ('when = ', 'filter = "true"\nwhen = '),
            ('ratio = 0.01', 'ratio = 1.5'),
        ]:
            self.assertIn(right, sound)
            self.assertNotEqual(refusals(sound.replace(right, wrong, 1)), [], wrong)

    def test_keys_are_described_with_their_defaults(self):
        schema = validator().schema
        pipeline = schema["properties"]["pipelines"]["additionalProperties"]
        self.assertEqual(pipeline["properties"]["order"]["default"], "key")
        self.assertEqual(pipeline["properties"]["order"]["enum"], ["none", "key", "partition"])
        self.assertIn("one key in one partition", pipeline["properties"]["order"]["description"])
        kinds = pipeline["properties"]["steps"]["items"]["oneOf"]
        names = {"custom", "filter", "lookup", "reference", "set", "write"}
        own = [names & set(kind["required"]) for kind in kinds]
        self.assertEqual(sorted(map(sorted, own)), [[name] for name in sorted(names)])


if __name__ == "__main__":
    unittest.main()
