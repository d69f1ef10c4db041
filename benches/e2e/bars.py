"""Draws the runs of `run` or `run scale`: a line for each stack or setting, a bar to its best round, a dot for every round.

usage: bars.py RESULTS.jsonl PICTURE.svg

CPU of the whole process per record in the second half of a run, as measured, on an axis by powers of ten where the lines differ much.
"""

import html
import json
import math
import pathlib
import sys

LEFT, WIDTH, ROW, TOP = 150, 520, 24, 40
STYLE = (
    "text{font:12px sans-serif;fill:#222}.tick{text-anchor:middle;font-size:10px;fill:#555}.name{text-anchor:end}.title{font-weight:bold}"
    ".grid{stroke:#ddd}.bar{fill:#9dbfe0}.own{fill:#1664a5}.dot{fill:#fff;stroke:#222}"
)


def ticks(low, high, log):
    if log:
        return [m * 10.0**p for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high))) for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    step = 10 ** math.floor(math.log10(high))
    step /= next(d for d in (5, 2, 1) if high / (step / d) <= 12)
    return [i * step for i in range(int(high / step) + 1)]


def draw(groups):
    values = [v for of in groups.values() for v in of]
    log = max(values) > 10 * min(values)
    low, high = (min(values) / 2 if log else 0), max(values) * 1.1
    scale = (lambda v: math.log10(v / low) / math.log10(high / low)) if log else (lambda v: v / high)
    x = lambda v: LEFT + WIDTH * scale(v)  # noqa: E731
    height = TOP + ROW * len(groups) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 30} {height}"><style>{STYLE}</style>',
        f'<rect width="{LEFT + WIDTH + 30}" height="{height}" fill="#fff"/>',
        '<text x="10" y="16" class="title">CPU µs per record</text>',
    ]
    for tick in ticks(low, high, log):
        out.append(f'<path d="M{x(tick):.1f} {TOP - 4}V{height - 8}" class="grid"/><text x="{x(tick):.1f}" y="{TOP - 8}" class="tick">{tick:g}</text>')
    for i, (name, of) in enumerate(groups.items()):
        y = TOP + ROW * i
        own = "bar own" if name.startswith("messina") else "bar"
        out.append(f'<text x="{LEFT - 8}" y="{y + 16}" class="name">{html.escape(name)}</text>')
        out.append(f'<rect x="{LEFT}" y="{y + 4}" width="{x(min(of)) - LEFT:.1f}" height="{ROW - 8}" class="{own}"/>')
        out += [f'<circle cx="{x(v):.1f}" cy="{y + ROW / 2}" r="3" class="dot"/>' for v in of]
    return "\n".join([*out, "</svg>"]) + "\n"


def main(results, picture):
    groups = {}
    for line in pathlib.Path(results).read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        groups.setdefault(run.get("label") or run["stack"], []).append(run["cpu_us_per_msg_2nd_half"])
    pathlib.Path(picture).write_text(draw(groups), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 3 else sys.exit(__doc__)
