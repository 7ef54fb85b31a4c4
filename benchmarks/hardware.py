"""Everything that has to be shown on an NVIDIA GPU, in one command.

::

    python benchmarks/hardware.py --out docs/evidence

writes ``docs/evidence/<date>-<gpu>/``: ``evidence.json``, ``README.md``, and the reports of each
step.  Every step is a child process with a time limit; what fails or cannot be run is recorded as
such, with the cause, and the others go on.  With ``--only`` some steps are run, and what an earlier
run of the same day found of the others is kept.

Exit status: 0 every step ran and passed, 1 a step failed, 3 none failed and some were not run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SPEED = Path(__file__).with_name("hardware_speed.py")
FORWARDER = ROOT / "rocm" / "tests" / "forwarder"

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"

# One op of each kind of kernel: compute-sanitizer slows a GPU down many times.
SANITIZED = (
    "add,divide,exp,where,astype,sum,prod,argmax,var,cumulative_sum,matmul,vecdot,take,gather,"
    "scatter,index_add,sort,searchsorted,nonzero,concat,repeat,tril,nn.softmax,nn.layer_norm,"
    "nn.cross_entropy,nn.embedding,random.uniform,random.permutation"
)


@dataclass
class Result:
    """What became of a step.

    Attributes:
        state: ``"passed"``, ``"failed"`` or ``"not run"``.
        cause: Why, unless it passed.
        data: Its figures.
        command: What was run.
        seconds: How long that took.
    """

    state: str
    cause: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Child:
    """A process that has ended: its status (None if time ran out) and what it printed."""

    status: int | None
    output: str
    seconds: float
    command: str

    def problem(self) -> str:
        """Why it failed: the last lines that it printed."""
        last = " / ".join(scrub(self.output).strip().splitlines()[-4:])
        if self.status is None:
            return f"it took longer than {self.seconds:.0f} s and was ended; {last}"
        return f"exit status {self.status}; {last}"


class Bench:
    """One run of this script: the device, where reports go, how children are started."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.lines, self.trouble = self._devices()
        self.gpu = next((x for x in self.lines if x["name"] == options.device), None)
        when = datetime.datetime.now(datetime.UTC)
        self.date = when.strftime("%Y-%m-%d")
        usable = self.gpu if self.usable() else None
        name = usable["details"].get("device", "gpu") if usable else "no device"
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.folder: Path = options.out / f"{self.date}-{slug}"

    def _devices(self) -> tuple[list[Any], str]:
        plugin = self.options.device.split(":")[0]
        done = self.child([*tensorbus(), "devices", "--json"], 600)
        try:
            lines = json.loads(done.output[done.output.index("[") :])
        except ValueError:
            return [], f"`tensorbus devices` failed: {done.problem()}"
        own = [x for x in lines if x["name"].split(":")[0] == plugin]
        said = "; ".join(f"{x['cause']} (to fix it: {x['fix']})" for x in own if x["cause"])
        return lines, said or f"there is no device {self.options.device}"

    def usable(self) -> bool:
        """Whether there is a device to speak of."""
        return self.gpu is not None and bool(self.gpu["available"])

    @property
    def simulated(self) -> bool:
        return self.gpu is not None and self.gpu["evidence"] == "simulated"

    def child(
        self, command: Sequence[str], limit_s: float, more: Mapping[str, str] | None = None
    ) -> Child:
        """Run a command; after `limit_s` seconds it is ended with all that it started."""
        limit = min(limit_s, self.options.limit or limit_s)
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(more or {})},
                cwd=ROOT,
                start_new_session=True,
            )
            status: int | None
            try:
                status = process.wait(limit)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                status = None
            out.seek(0)
            text = out.read()
        seconds = time.perf_counter() - start
        return Child(status, text, seconds, scrub(" ".join(command)))


def tensorbus() -> list[str]:
    """The command line tool of this environment."""
    return [sys.executable, "-m", "tensorbus_conformance"]


def scrub(text: str) -> str:
    """Without the paths of this machine."""
    python = str(Path(sys.executable))
    for path, name in ((python, "python"), (str(ROOT), "."), (str(Path.home()), "~")):
        text = text.replace(path, name)
    return text


# -- steps ------------------------------------------------------------------------------------


def machine(bench: Bench) -> Result:
    """What the driver says of the GPU."""
    if bench.simulated:
        return Result(NOT_RUN, "a simulated device has no nvidia-smi")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Result(NOT_RUN, "nvidia-smi is not found")
    fields = (
        "index,name,driver_version,vbios_version,compute_cap,memory.total,power.limit,"
        "clocks.max.sm,clocks.max.memory,ecc.mode.current,mig.mode.current,persistence_mode"
    )
    done = bench.child([tool, f"--query-gpu={fields}", "--format=csv,noheader"], 60)
    if done.status != 0:
        return finish(done, {})
    rows = [[v.strip() for v in line.split(",")] for line in done.output.strip().splitlines()]
    gpus = [dict(zip(fields.split(","), row, strict=False)) for row in rows]
    return finish(done, {"gpus": gpus})


def finish(done: Child, data: dict[str, Any], cause: str = "") -> Result:
    """The result of a child that ended as `done` tells; a `cause` makes it a failure too."""
    bad = cause or (done.problem() if done.status != 0 else "")
    return Result(FAILED if bad else PASSED, bad, data, done.command, round(done.seconds, 1))


def conform(
    bench: Bench, name: str, device: str, level: str, more: Mapping[str, str] | None = None
) -> Result:
    """Judge a device; the whole report lies beside the evidence."""
    file = bench.folder / f"{name}.json"
    command = [*tensorbus(), "conform", "--device", device, "--level", level, "--json", str(file)]
    ops = bench.options.ops
    command += ["--ops", ops] if ops else []
    file.unlink(missing_ok=True)
    done = bench.child(command, 4 * 3600, more)
    try:
        report = json.loads(file.read_text())
    except (OSError, ValueError):
        return finish(done, {}, f"it left no report: {done.problem()}")
    for path in (file, file.with_suffix(".md")):
        path.write_text(scrub(path.read_text()))
    lines = [x for x in report["devices"] if x["name"].split(":")[0] == device.split(":")[0]]
    counts = [report["summary"].get(x["name"], {}) for x in lines]
    data = {
        "level": level,
        "ops": report["asked"]["ops"],
        "evidence": lines[0]["evidence"] if lines else "",
        "device": lines[0]["description"] if lines else device,
        "counts": dict(sum(map(Counter, counts), Counter())),
        "report": file.name,
    }
    cause = ""
    if not (report["passed"] and report["complete"] and data["counts"].get("cells")):
        absent = [x["cause"] for x in lines if x["cause"]]
        told = ", ".join(f"{v} {k}" for k, v in data["counts"].items())
        cause = "; ".join(absent) or f"not everything passed: {told or 'nothing was executed'}"
    return finish(done, data, cause)


def conform_cuda(bench: Bench) -> Result:
    return conform(bench, "conform-cuda", bench.options.device, bench.options.level)


def conform_opencl(bench: Bench) -> Result:
    """The opencl plugin on NVIDIA's own OpenCL."""
    own = [x for x in bench.lines if any(n.startswith("opencl:nvidia") for n in x["aliases"])]
    usable = [x for x in own if x["available"]]
    if not usable:
        why = "; ".join(x["cause"] for x in own) or "no OpenCL driver of NVIDIA is installed"
        return Result(NOT_RUN, why)
    return conform(bench, "conform-opencl", usable[0]["name"], "smoke")


def conform_rocm(bench: Bench) -> Result:
    """The rocm plugin's host code and HIP kernels, through the forwarder to NVIDIA's driver."""
    sys.path.insert(0, str(FORWARDER))
    try:
        from build import NoCompilerError, forwarded  # type: ignore[import-not-found]
    except ImportError as error:
        return Result(NOT_RUN, f"the forwarder is not here ({error})")
    loader = Path(bench.gpu["details"]["loader"]) if bench.simulated and bench.gpu else None
    with tempfile.TemporaryDirectory(prefix="tensorbus-") as folder:
        try:
            more = forwarded(Path(folder), loader)
        except NoCompilerError as error:
            return Result(NOT_RUN, scrub(str(error)))
        return conform(bench, "conform-rocm-forwarder", "rocm", "smoke", more)


def sanitize(bench: Bench, tool: str) -> Result:
    """compute-sanitizer over one op of each kind of kernel."""
    if bench.simulated:
        return Result(NOT_RUN, "a simulated device has no memory that compute-sanitizer could see")
    program = sanitizer()
    if program is None:
        return Result(NOT_RUN, "compute-sanitizer is not found (it comes with the CUDA toolkit)")
    with tempfile.TemporaryDirectory(prefix="tensorbus-") as scratch:
        command = [program, "--tool", tool, "--target-processes", "all", "--report-api-errors"]
        command += ["no", "--log-file", f"{scratch}/%p.log", *tensorbus(), "conform"]
        command += ["--device", bench.options.device, "--level", "smoke", "--workers", "1"]
        command += ["--timeout", "1800", "--json", f"{scratch}/report.json"]
        done = bench.child([*command, "--ops", bench.options.ops or SANITIZED], 2 * 3600)
        logs = [scrub(f.read_text(errors="replace")) for f in sorted(Path(scratch).glob("*.log"))]
    (bench.folder / f"{tool}.txt").write_text("\n".join(logs)[:200_000])
    findings, watched = counted(logs)
    data = {"processes": watched, "findings": findings, "log": f"{tool}.txt"}
    cause = f"{findings} findings, see {tool}.txt" if findings else ""
    return finish(done, data, cause if watched else "no process was watched")


def sanitizer() -> str | None:
    roots = [os.environ.get("CUDA_HOME", ""), *sorted(map(str, Path("/usr/local").glob("cuda*")))]
    places = [f"{root}/{sub}" for root in roots if root for sub in ("bin", "compute-sanitizer")]
    return shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(reversed(places))
    )


def counted(logs: Sequence[str]) -> tuple[int, int]:
    """Findings of compute-sanitizer's logs, and the processes whose logs end with a summary."""
    pattern = r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)"
    found = [re.findall(pattern, text) for text in logs]
    return sum(int(n) for each in found for n in each), sum(map(bool, found))


def speed(bench: Bench, what: str) -> Result:
    """The measurements of hardware_speed.py."""
    file, options = bench.folder / f"{what}.json", bench.options
    file.unlink(missing_ok=True)
    command = [sys.executable, str(SPEED), what, "--device", options.device, "--json", str(file)]
    command += ["--elements", str(options.elements), "--sizes", options.sizes]
    done = bench.child([*command, "--rounds", str(options.rounds)], 1800)
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return finish(done, {}, f"it left no figures: {done.problem()}")
    result = finish(done, data)
    if result.state == PASSED and "not_run" in data:
        result.state, result.cause = NOT_RUN, f"nothing to compare with: {data['not_run']}"
    return result


STEPS: dict[str, tuple[str, Callable[[Bench], Result]]] = {
    "machine": ("GPU and driver", machine),
    "bandwidth": ("memory-bound ops, beside a copy", lambda b: speed(b, "bandwidth")),
    "matmul": ("matrix products, beside PyTorch", lambda b: speed(b, "matmul")),
    "conform-cuda": ("conformance of cuda", conform_cuda),
    "conform-opencl": ("conformance of opencl on NVIDIA's OpenCL", conform_opencl),
    "conform-rocm": ("conformance of rocm, forwarded to CUDA", conform_rocm),
    "memcheck": ("compute-sanitizer memcheck", lambda b: sanitize(b, "memcheck")),
    "racecheck": ("compute-sanitizer racecheck", lambda b: sanitize(b, "racecheck")),
}


# -- the record -------------------------------------------------------------------------------


def record(bench: Bench, results: Mapping[str, Result]) -> dict[str, Any]:
    """The whole evidence as data."""
    gpu = bench.gpu if bench.usable() else None
    return {
        "schema": "tensorbus-evidence/1",
        "date": bench.date,
        "evidence": gpu["evidence"] if gpu else "none",
        "device": json.loads(scrub(json.dumps(gpu))) if gpu else bench.trouble,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": commit(),
        "steps": {name: asdict(result) for name, result in results.items()},
    }


def commit() -> str:
    """The commit that is checked out, with a plus if files were changed."""
    git = shutil.which("git")
    if git is None:
        return ""
    words = [git, "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def page(data: Mapping[str, Any]) -> str:
    """The evidence as Markdown."""
    device = data["device"]
    title = device["details"].get("device", device["name"]) if isinstance(device, dict) else "none"
    lines = [f"# Evidence of {data['date']}: {title}", ""]
    if isinstance(device, dict):
        lines += [f"{device['name']}: {device['description']}.", ""]
    else:
        lines += [f"No device: {device}", ""]
    lines += [f"Evidence level: **{data['evidence']}**. {data['system']}, Python {data['python']}"]
    lines[-1] += f", commit {data['commit']}." if data["commit"] else "."
    lines += ["", "| step | state | what was found |", "|---|---|---|"]
    for name, step in data["steps"].items():
        told = (step["cause"] or finding(step["data"])).replace("|", "/").replace("\n", " ")
        lines.append(f"| {name}: {STEPS[name][0]} | {step['state']} | {told} |")
    for name, step in data["steps"].items():
        if rows := step["data"].get("rows"):
            lines += ["", *table(name, step["data"], rows)]
    return "\n".join(lines) + "\n"


def finding(data: Mapping[str, Any]) -> str:
    """One line on a step that passed."""
    if "counts" in data:
        counts = ", ".join(f"{v} {k}" for k, v in data["counts"].items())
        return f"{data['device']}, evidence {data['evidence']}, level {data['level']}: {counts}"
    if "findings" in data:
        return f"{data['findings']} findings in {data['processes']} processes"
    if "rows" in data:
        aims = [row["met"] for row in data["rows"].values() if "met" in row]
        return f"{sum(aims)} of {len(aims)} aims met"
    return "; ".join(f"{g['name']}, driver {g['driver_version']}" for g in data.get("gpus", []))


def table(name: str, data: Mapping[str, Any], rows: Mapping[str, Any]) -> list[str]:
    """The figures of a measurement."""
    scale, unit = (1e9, "GB/s") if data["unit"] == "bytes/s" else (1e12, "Tflop/s")
    size = f", {data['elements']:,} float32 elements" if "elements" in data else ""
    lines = [f"## {name}", "", f"Medians of {data['rounds']} interleaved rounds{size}."]
    lines += ["", f"| case | time | {unit} | fraction of {data['against'] or 'a peer'} | aim | |"]
    lines += ["|---|---|---|---|---|---|"]
    for case, row in rows.items():
        if "fraction" in row:
            low, high = row["fractions"]
            compared = f"{row['fraction']:.3f} ({low:.3f} to {high:.3f}) | {row['aim']:.2f}"
        else:
            compared = "- | -"
        met = "" if "met" not in row else "met" if row["met"] else "missed"
        cells = (f"{row['seconds'] * 1e3:.3f} ms", f"{row['rate'] / scale:.1f}", compared, met)
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return lines


def earlier(folder: Path) -> dict[str, Result]:
    """What a run before this one found."""
    try:
        steps = json.loads((folder / "evidence.json").read_text())["steps"]
        return {name: Result(**step) for name, step in steps.items() if name in STEPS}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save(bench: Bench, results: Mapping[str, Result]) -> None:
    data = record(bench, results)
    (bench.folder / "evidence.json").write_text(json.dumps(data, indent=1) + "\n")
    (bench.folder / "README.md").write_text(page(data))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", default=",".join(STEPS), metavar="STEP,...")
    parser.add_argument("--level", default="standard", help="of the conformance of cuda")
    parser.add_argument("--ops", help="judge these only, and say so in the evidence")
    parser.add_argument("--elements", type=int, default=1 << 28, help="of the memory-bound ops")
    parser.add_argument("--sizes", default="4096,8192", help="of the matrix products")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, help="seconds for any step, if less than its own")
    options = parser.parse_args(arguments)
    chosen = [name.strip() for name in options.only.split(",")]
    if unknown := set(chosen) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    options.out = options.out.resolve()
    bench = Bench(options)
    bench.folder.mkdir(parents=True, exist_ok=True)
    known = earlier(bench.folder)
    absent = Result(NOT_RUN, "not asked for (--only)")
    results = {name: known.get(name, absent) for name in STEPS}
    for name in chosen:
        print(f"{name} ...", flush=True)
        results[name] = attempt(bench, STEPS[name][1])
        print(f"{name}: {results[name].state} {results[name].cause}", flush=True)
        save(bench, results)
    print(f"Evidence: {bench.folder}")
    states = {result.state for result in results.values()}
    return 1 if FAILED in states else 3 if NOT_RUN in states else 0


def attempt(bench: Bench, step: Callable[[Bench], Result]) -> Result:
    """One step, whatever happens in it."""
    if not bench.usable():
        return Result(NOT_RUN, bench.trouble)
    try:
        return step(bench)
    except Exception as error:
        return Result(FAILED, scrub(f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    sys.exit(main())
