"""docs/ has a picture of each dashboard and of the status page, and the long form draws all of them again."""

import os
import re
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from operate import ROOT, dashboards

PICTURES = ROOT / "docs/pictures"
# By the page that shows the pictures.
SHOWN = {
    "docs/dashboards.md": {f"{name.removesuffix('.json')}.png" for name in dashboards()},
    "docs/operations.md": {"status-light.png", "status-dark.png"},
}
LARGEST = 200 * 1024


def size(path):
    """(width, height) of a PNG."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n", path
    return struct.unpack(">II", head[16:24])


class Pictures(unittest.TestCase):
    def whole(self, folder):
        wanted = set().union(*SHOWN.values())
        self.assertEqual({path.name for path in folder.glob("*.png")}, wanted, "run dashboards/screenshots")
        for path in folder.glob("*.png"):
            width, height = size(path)
            self.assertGreater(min(width, height), 360, path.name)
            self.assertLess(path.stat().st_size, LARGEST, path.name)

    def test_each_is_there_and_is_shown(self):
        self.whole(PICTURES)
        for page, pictures in SHOWN.items():
            shown = re.findall(r"!\[[^\]]+\]\(pictures/([^)]+)\)", (ROOT / page).read_text())
            self.assertEqual(set(shown), pictures, page)

    if os.environ.get("MESSINA_TEST_LONG"):

        def test_they_can_be_drawn(self):
            with tempfile.TemporaryDirectory() as folder:
                drawn = subprocess.run([sys.executable, ROOT / "dashboards/screenshots", "--seconds", "60", folder], capture_output=True, text=True)
                self.assertEqual(drawn.returncode, 0, drawn.stdout + drawn.stderr)
                self.whole(Path(folder))


if __name__ == "__main__":
    unittest.main()
