"""Gate, suites, one JSON with plots beside it, and the table: what `bash bench/run.sh` runs."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench import figures, gate, plot
from bench.machine import ROOT, commit, hardware_slug, machine, today
from bench.plan import SUITES, plan
from bench.record import Record
from blip_model.config import PRESETS

RESULTS = ROOT / "bench" / "results"
SUITE_SECONDS = 3600


def arguments(words: list[str]) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="bash bench/run.sh", description=__doc__)
    parser.add_argument("hardware", nargs="?", choices=["cpu", "gpu"], help="default: what is here")
    parser.add_argument("--quick", action="store_true", help="fewer settings, at most 9 minutes")
    parser.add_argument("--suites", help=f"some of {','.join(SUITES)}; --quick leaves out safety")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="base")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    found = parser.parse_args(words)
    found.suites = found.suites.split(",") if found.suites else usual(found.quick)
    if unknown := set(found.suites) - set(SUITES):
        parser.error(f"no suite {', '.join(sorted(unknown))}: choose from {', '.join(SUITES)}")
    found.hardware = found.hardware or ("gpu" if torch.cuda.is_available() else "cpu")
    if found.hardware == "gpu" and not torch.cuda.is_available():
        parser.error("no GPU can be used here: take cpu")
    return found


def usual(quick: bool) -> list[str]:
    """The suites of a whole run; safety has sizes of its own that are not made smaller."""
    return [name for name in SUITES if not (quick and name == "safety")]


def run_suite(name: str, found: argparse.Namespace, part: Path) -> str:
    """Run a suite in a process of its own, whose memory it gives back; what went wrong, or ''."""
    command = [sys.executable, "-m", "pytest", f"bench/test_{name}.py", "-q", "--no-header"]
    command += ["--hardware", found.hardware, "--preset", found.preset, "--part", str(part)]
    command += ["--benchmark-quiet", "--timeout", str(SUITE_SECONDS)]
    command += ["--quick"] if found.quick else []
    done = subprocess.run(command, cwd=ROOT, check=False)
    # 5: every test of the suite was skipped, for a reason that stands in the notes.
    return "" if done.returncode in (0, 5) else f"suite {name} failed (exit {done.returncode})"


def what(found: argparse.Namespace) -> str:
    """First part of the file's name: what was measured."""
    whole = {*usual(found.quick)} <= {*found.suites}
    parts = ["bench"] if whole else ["+".join(found.suites)]
    parts += ["quick"] if found.quick else []
    return "-".join(parts + ([found.preset] if found.preset != "base" else []))


def main(words: list[str]) -> int:
    """Run; 0 with all figures, 1 where a suite failed, 2 from a red gate or a wrong argument."""
    found = arguments(words)
    facts: dict[str, Any] = {
        "command": " ".join(["bash bench/run.sh", *words]),
        "hardware": found.hardware,
        "quick": found.quick,
        "preset": found.preset,
        "date": today(),
        "commit": commit(),
        "machine": machine(plan(found.hardware, found.quick).device),
    }
    if not gate.passes():
        print("gate is red: golden tests fail, no figures", file=sys.stderr)
        return gate.RED
    record, failed, seconds = Record(), [], {}
    load, cores = facts["machine"]["load_before"], facts["machine"]["cores"]
    if load > cores / 2:
        record.note(f"load average {load} on {cores} cores when it began: other work was running")
    with tempfile.TemporaryDirectory() as folder:
        for suite in found.suites:
            print(f"\n[{time.strftime('%H:%M:%S')}] {suite}", flush=True)
            began, part = time.perf_counter(), Path(folder) / f"{suite}.json"
            if problem := run_suite(suite, found, part):
                failed.append(problem)
                record.note(problem)
            seconds[suite] = round(time.perf_counter() - began, 1)
            if part.exists():
                record.merge(Record.read(part))
    name = "_".join([what(found), hardware_slug(facts["machine"]), facts["date"], facts["commit"]])
    path = found.output / f"{name}.json"
    record.write(path, **facts, suite_seconds=seconds, failed=failed)
    results = json.loads(path.read_text(encoding="utf-8"))
    plot.plot_ratios(results, path.with_suffix(".png"))
    plot.plot_times(results, path.with_name(f"{name}_times.png"))
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    print(f"\n{shown}\n{', '.join(f'{suite} {s} s' for suite, s in seconds.items())}\n")
    print(figures.table(results))
    return 1 if failed else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
