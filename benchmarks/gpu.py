"""Everything that needs a GPU, in one command of nine minutes: the tests marked gpu, then the measurements on CUDA.

Examples:
    python -m benchmarks.gpu                  # tests and figures; writes gpu.md, gpu.json and the output of each part
    python -m benchmarks.gpu --requirements   # lists missing packages, runs nothing

It needs no internet. Each part is a process of its own with a time limit, so that a failure does not stop the others.
This file imports only Python's standard library, since it must run where packages are missing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS, PEERS = "mobilemamba_s6", ("efficientvim_m3", "shvit_s3")
TEST_TOOLS = ("pytest>=8",)

DEVICE = (
    "import json, torch; d = torch.cuda.get_device_properties(0); "
    "print(json.dumps({'device': d.name, 'memory_gib': round(d.total_memory / 2**30, 1), "
    "'capability': f'{d.major}.{d.minor}', 'torch': torch.__version__, 'cuda': torch.version.cuda}))"
)


@dataclass(frozen=True)
class Part:
    """One measurement or all tests.

    Args:
        name: Name of its files.
        title: Heading of its results.
        command: Arguments of Python; {} is the JSON file to write.
        limit: Time limit in seconds.
    """

    name: str
    title: str
    command: tuple[str, ...]
    limit: int


def _networks(name: str, title: str, limit: int, *options: str) -> Part:
    command = ("-m", "benchmarks", "networks", OURS, PEERS[0], "--reference", PEERS[1], "--device", "cuda")
    return Part(name, title, (*command, *options, "--batch-sizes", "256", "--autocast", "--output", "{}"), limit)


PARTS = (
    Part("tests", "Tests marked gpu", ("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"), 180),
    Part(
        "scan",
        "The selective scan, forward and backward, at the sizes of S6",
        ("-m", "benchmarks", "scan", OURS, "--device", "cuda", "--output", "{}"),
        60,
    ),
    _networks("inference", "Networks in use, bf16", 150, "--forms", "eager", "fused", "compiled", "--rounds", "10"),
    _networks("training", "Training steps, bf16", 60, "--training"),
    Part(
        "ceiling",
        "How close the fused network comes to the limits of the device",
        ("-m", "benchmarks", "ceiling", "--device", "cuda", "--forms", "fused", "--batch-size", "256"),
        60,
    ),
)
"""Together less than nine minutes."""


@dataclass(frozen=True)
class Outcome:
    """Result of a part.

    Args:
        part: Its name.
        status: Exit status; None after the time limit.
        seconds: How long it took.
        output: The end of what it printed.
        results: Content of its JSON file; None without one.
    """

    part: str
    status: int | None
    seconds: float
    output: str
    results: object


def missing_requirements() -> list[str]:
    """Return the project's requirements that are not installed, as pip takes them; versions are not compared."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    missing = []
    for requirement in (*wanted, *TEST_TOOLS):
        name = re.split(r"[\[<>=!~ ]", requirement, maxsplit=1)[0]
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(requirement)
    return missing


def run(part: Part, output: Path) -> Outcome:
    """Run a part, and write what it prints to a file of its name."""
    results = output / f"{part.name}.json"
    begun = time.monotonic()
    command = [sys.executable, *(word.replace("{}", str(results)) for word in part.command)]
    log = output / f"{part.name}.txt"
    with log.open("w") as file:
        try:
            status = subprocess.run(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=part.limit
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    seconds = time.monotonic() - begun
    written = json.loads(results.read_text()) if results.is_file() else None
    return Outcome(part.name, status, seconds, log.read_text()[-20_000:], written)


def as_markdown(device: dict[str, object], outcomes: list[Outcome]) -> str:
    """Return the device, the status of each part, and the tables that parts have printed."""
    about = ", ".join(f"{name} {value}" for name, value in device.items() if name != "device")
    lines = [f"# {device['device']}", "", about, "", "| part | status | seconds |", "|---|---|---:|"]
    statuses = {None: "stopped at its time limit", 0: "passed"}
    for one in outcomes:
        lines.append(f"| {one.part} | {statuses.get(one.status, f'failed ({one.status})')} | {one.seconds:.0f} |")
    titles = {part.name: part.title for part in PARTS}
    for one in outcomes:
        tables = [line for line in one.output.splitlines() if line.startswith("|")]
        last = [line for line in one.output.splitlines() if line.strip()][-1:]
        lines += ["", f"## {titles[one.part]}", "", *(tables or last)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all parts, or list missing packages; return 0 if nothing is missing and everything passes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--requirements", action="store_true", help="only list the packages that are missing")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="some of the parts")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder for the results")
    options = parser.parse_args()
    missing = missing_requirements()
    if options.requirements:
        print("\n".join(missing) or "nothing is missing")
        return 0
    if missing:
        print(f"error: packages are missing: pip install {' '.join(missing)}", file=sys.stderr)
        return 1
    found = subprocess.run([sys.executable, "-c", DEVICE], capture_output=True, text=True, check=False)
    if found.returncode:
        print(f"error: no CUDA device: {found.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return 1
    device = json.loads(found.stdout)
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for part in PARTS:
        if options.only and part.name not in options.only:
            continue
        print(f"{device['device']}: {part.title} (at most {part.limit} s) ...", flush=True)
        outcomes.append(run(part, output))
        # Written after every part, since the machine may be taken away at any time.
        (output / "gpu.json").write_text(json.dumps(device | {"parts": [asdict(one) for one in outcomes]}, indent=2))
        (output / "gpu.md").write_text(as_markdown(device, outcomes))
        if outcomes[-1].status != 0:
            print(
                f"{part.name} did not pass; its output in {output / part.name}.txt ends:\n{outcomes[-1].output[-1500:]}"
            )
    print((output / "gpu.md").read_text())
    return 0 if all(one.status == 0 for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
