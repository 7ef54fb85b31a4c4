"""Many seeds of the smoke sample on one device: false alarms, and what comes near its bound.

``make seeds`` runs it with 200 seeds, and writes docs/seeds.md and docs/seeds.json.  A failing cell
on a device that is right is a false alarm; a cell whose worst error lies within 2 per cent of its
bound is listed too, since its bound has to be derived again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEAR = 0.98


def judged(device: str, seed: int, ops: str | None, folder: Path) -> dict[str, Any]:
    """The report of one run."""
    file = folder / f"{seed}.json"
    call = [sys.executable, "-P", "-m", "tensorbus_conformance", "conform", "--device", device]
    call += ["--level", "smoke", "--seed", str(seed), "--workers", "1", "--json", str(file)]
    call += ["--report", str(folder)]
    if ops:
        call += ["--ops", ops]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if not file.is_file():
        raise SystemExit(f"seed {seed} left no report: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(file.read_text())
    file.unlink()
    return found


def near(cell: dict[str, Any]) -> bool:
    """Whether the worst error of a passing cell lies within 2 per cent of its bound."""
    try:
        worst, bound = float(cell.get("worst_error") or 0), float(cell.get("bound") or 0)
    except ValueError:
        return False
    return cell["state"] == "pass" and bound > 0 and NEAR * bound <= worst <= bound


def page(data: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "# Seeds",
        "",
        f"`{data['command']}`, commit {data['commit']}, {data['seconds']:.0f} s.",
        "",
        f"{len(data['seeds'])} seeds, {data['cells']:,} cells, "
        f"**{len(data['alarms'])} false alarms**.",
        "",
    ]
    lines += [f"- seed {a['seed']}: {a['cell']}: {a['message']}" for a in data["alarms"]]
    lines += ["", "Cells within 2% of their bound, by number of seeds:", ""]
    lines += [f"- {name}: {n}" for name, n in data["near"].items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the seeds; 1 if there was an alarm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--device", default="ref")
    parser.add_argument("--ops", help="as for conform")
    parser.add_argument("--parallel", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of seeds.md")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    start, cells = time.monotonic(), 0
    alarms: list[dict[str, Any]] = []
    close: Counter[str] = Counter()
    seeds = list(range(options.first, options.first + options.seeds))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.parallel) as pool:

        def run(seed: int) -> dict[str, Any]:
            return judged(options.device, seed, options.ops, Path(folder))

        for seed, report in zip(seeds, pool.map(run, seeds), strict=True):
            cells += len(report["cells"])
            for cell in report["cells"]:
                keys = ("op", "device", "dtype", "variant", "property")
                name = "/".join(str(cell[k]) for k in keys)
                if cell["state"] not in ("pass", "unsupported"):
                    alarms.append({"seed": seed, "cell": name, "message": cell["message"]})
                    print(f"seed {seed}: {name}: {cell['message']}", flush=True)
                elif near(cell):
                    close[name] += 1
            print(f"seed {seed}: {len(alarms)} alarms so far", flush=True)
    data = {
        "command": f"python benchmarks/seeds.py --device {options.device} --seeds {options.seeds}",
        "commit": commit,
        "seconds": round(time.monotonic() - start, 1),
        "seeds": seeds,
        "cells": cells,
        "alarms": alarms,
        "near": dict(close.most_common()),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "seeds.json").write_text(json.dumps(data, indent=1) + "\n")
    (options.out / "seeds.md").write_text(page(data))
    print(page(data))
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
