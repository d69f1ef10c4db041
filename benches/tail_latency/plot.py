"""Draws the series of tail.py like the talk's dashboard: one column for each stack, with the slow phase shaded.

usage: plot.py SERIES.jsonl PICTURE.svg
"""

import html
import json
import math
import pathlib
import sys

WIDTH, HEIGHT, LEFT, TOP, GAP = 250, 92, 58, 46, 34
# What is drawn: title, key in the series, factor, and whether the axis is logarithmic.
ROWS = [
    ("records/s out", "out", 1, False),
    ("consumer has a record, p95, µs", "consumer_p95_ms", 1000, True),
    ("record in all, p95, ms", "event_p95_ms", 1, True),
    ("records in flight", "in_flight", 1, False),
]


def axis(values, log):
    """The lowest and highest value of an axis, and its ticks."""
    if log:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return low, max(high, low + 1), [10**p for p in range(low, max(high, low + 1) + 1)]
    step = 10 ** math.floor(math.log10(max(values) or 1))
    high = step * math.ceil(max(values) / step)
    return 0, high, [0, high / 2, high]


def panel(x, y, series, row, scale):
    title, key, factor, log = row
    low, high, ticks = scale
    end = series[-1]["at"]
    across = lambda at: x + WIDTH * at / end  # noqa: E731
    up = lambda value: y + HEIGHT * (1 - ((math.log10(value) if log else value) - low) / (high - low))  # noqa: E731
    slow = [s["at"] for s in series if s["phase"] == "during"]
    parts = [
        f'<rect x="{across(slow[0] - 1):.1f}" y="{y}" width="{across(slow[-1]) - across(slow[0] - 1):.1f}" height="{HEIGHT}" class="slow"/>',
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" class="frame"/>',
        f'<text x="{x}" y="{y - 6}">{html.escape(title)}</text>',
    ]
    for tick in ticks:
        parts.append(f'<path d="M{x} {up(tick):.1f}h{WIDTH}" class="grid"/><text x="{x - 5}" y="{up(tick) + 3.5:.1f}" class="tick">{tick:g}</text>')
    points = [(s["at"], s[key] * factor) for s in series if s.get(key) is not None and (s[key] > 0 or not log)]
    if points:
        parts.append('<polyline class="line" points="' + " ".join(f"{across(a):.1f},{up(v):.1f}" for a, v in points) + '"/>')
    else:
        parts.append(f'<text x="{x + WIDTH / 2}" y="{y + HEIGHT / 2}" class="none">it does not tell</text>')
    return parts


def draw(lines):
    scales = []
    for _, key, factor, log in ROWS:
        values = [s[key] * factor for line in lines for s in line["series"] if s.get(key)]
        scales.append(axis(values or [1], log))
    across, down = LEFT + WIDTH + 14, HEIGHT + GAP
    width, height = across * len(lines) + 10, TOP + down * len(ROWS) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        "<style>.frame{fill:none;stroke:#999}.grid{stroke:#ddd}.slow{fill:#fde7c8}.line{fill:none;stroke:#1664a5;stroke-width:1.5}"
        "text{fill:#222}.tick{text-anchor:end;fill:#555}.none{text-anchor:middle;fill:#888}.name{font-size:14px;font-weight:bold}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for column, line in enumerate(lines):
        x = LEFT + across * column
        parts.append(f'<text x="{x}" y="18" class="name">{html.escape(line["stack"])}</text>')
        for number, (row, scale) in enumerate(zip(ROWS, scales, strict=True)):
            parts += panel(x, TOP + down * number, line["series"], row, scale)
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    pathlib.Path(sys.argv[2]).write_text(draw([json.loads(line) for line in text.splitlines()]), encoding="utf-8")
