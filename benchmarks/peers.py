"""mfkit beside the programs that people would otherwise use, at MovieLens-1M's size: `peers.json`.

One split, two threads, one evaluation (predictions clipped to [1, 5], RMSE in float64). Each fit is a process of
its own; the programs take turns, round by round, so that a busy minute hits all of them. Seconds run from arrays in
memory to a fitted model, imports and scoring excluded, data structures included. A program that fails is a row that
says why. Settings are chosen on the validation part, from the grids in programs.py; the test part is scored once.

    python benchmarks/peers.py                    with the settings that peers.json has chosen for these data
    python benchmarks/peers.py --tune             chooses them anew
    python benchmarks/peers.py --only libmf mfkit_als --out /tmp/two.json
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from statistics import median

import numpy as np
from programs import PROGRAMS, THREADS, Data

HERE = Path(__file__).resolve()
RESULTS = HERE.with_suffix(".json")
SHARES = {"train": 0.85, "validation": 0.05, "test": 0.10}
ROUNDS, SLOW = 3, 60.0  # a program that has used so many seconds takes part in no further round
LIMIT = 900  # seconds that one fit may take
POOLS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON", "LK", "POLARS_MAX")


# ---- in the child process


class Clock:
    """Told by a program how far it is; stands still while it scores."""

    def __init__(self, users: np.ndarray, items: np.ndarray, values: np.ndarray):
        self.scored, self.points, self.spent, self.peak = (users, items, values), [], 0.0, 0
        self.since = time.perf_counter()

    def imported(self) -> None:
        self.import_seconds = time.perf_counter() - self.since
        self.start_mb = memory_mb("VmRSS")
        self._go()

    def built(self) -> None:
        self._stop()
        self.layout_seconds = self.spent
        self._go()

    def score(self, iterations: int, predict) -> None:
        self._stop()
        users, items, values = self.scored
        start, total = time.perf_counter(), 0.0
        for k in range(0, len(values), 8192):
            part = slice(k, k + 8192)
            p = np.asarray(predict(users[part], items[part]), np.float64)
            total += np.square(p.clip(1, 5) - values[part].astype(np.float64)).sum()
        self.predict_seconds = time.perf_counter() - start
        rmse = float(np.sqrt(total / len(values)))
        self.points.append({"iterations": iterations, "seconds": round(self.spent, 4), "rmse": round(rmse, 5)})
        self._go()

    def record(self) -> dict:
        self._stop()
        peak = None if self.start_mb is None else round(self.peak - self.start_mb, 1)
        seconds = {"seconds": self.spent, "layout_seconds": self.layout_seconds, "import_seconds": self.import_seconds}
        seconds = {name: round(value, 4) for name, value in seconds.items()}
        return {**seconds, "predict_seconds": round(self.predict_seconds, 4), "peak_mb": peak, "points": self.points}

    def _go(self) -> None:
        if self.start_mb is not None:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew: scoring does not count
        self.since = time.perf_counter()

    def _stop(self) -> None:
        self.spent += time.perf_counter() - self.since
        self.peak = max(self.peak, memory_mb("VmHWM") or 0)


def memory_mb(name: str) -> float | None:
    """A line of this process's status, in megabytes; None where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def child(name: str, settings: dict, folder: Path, part: str) -> dict:
    """Fit one program on the training part; what happened, or {"failed": why}."""
    try:
        train, scored = (np.load(folder / f"{p}.npz") for p in ("train", part))
        train, scored = ([x[key] for key in ("users", "items", "values")] for x in (train, scored))
        sizes = json.loads((folder / "sizes.json").read_text())
        clock = Clock(*scored)
        PROGRAMS[name].fit(Data(*train, **sizes), settings, clock)
        return clock.record()
    except Exception as error:  # whatever a program does wrong is its own row
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}".strip()[:300]}


# ---- in the parent


def run(name: str, settings: dict, folder: Path, part: str) -> dict:
    """`child` in a process of its own with two threads; a crash and a fit past the limit are failures too."""
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    task = json.dumps({"name": name, "settings": settings, "folder": str(folder), "part": part})
    environment = os.environ | {f"{pool}_NUM_THREADS": str(THREADS) for pool in POOLS} | {"TQDM_DISABLE": "1"}
    command = [sys.executable, str(HERE), "--child", task]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, cwd=folder)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end within {LIMIT} s"}
    if not out.exists():
        return {"failed": f"the process ended with code {done.returncode}: {done.stderr.strip()[-200:]}"}
    found = json.loads(out.read_text())
    if not found.get("points", True):
        return {"failed": "it never showed a model"}
    return found


def prepare(folder: Path) -> dict:
    """The parts as files in `folder`; what they are."""
    import mfkit

    truth = None
    try:
        ratings, source = mfkit.movielens("1m"), "MovieLens-1M"
    except (ConnectionError, OSError):
        sizes = dict(n_users=6040, n_items=3706, n_ratings=1_000_209, rank=8, noise=0.85, seed=0, stars=True)
        ratings, truth = mfkit.synthetic(**sizes)
        source = f"mfkit.synthetic({', '.join(f'{k}={v}' for k, v in sizes.items())}): MovieLens-1M cannot be had here"
    parts = dict(zip(SHARES, ratings.split(tuple(SHARES.values()), seed=0), strict=True))
    digest = hashlib.sha256()
    for name, part in parts.items():
        columns = {key: getattr(part, key).numpy() for key in ("users", "items", "values")}
        np.savez(folder / f"{name}.npz", **columns)
        for column in columns.values():
            digest.update(column.tobytes())
    (folder / "sizes.json").write_text(json.dumps({"n_users": ratings.n_users, "n_items": ratings.n_items}))
    clean = None if truth is None else (truth(parts["test"]).clamp(1, 5) - parts["test"].values).square().mean().sqrt()
    return {
        "source": source,
        "n_users": ratings.n_users,
        "n_items": ratings.n_items,
        "ratings": {name: len(part) for name, part in parts.items()},
        "sha256": digest.hexdigest(),
        "noise_floor": None if clean is None else round(clean.item(), 5),  # the clean truth, clipped, on the test part
    }


def machine() -> dict:
    """What the seconds depend on."""
    model, memory = platform.processor(), None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        memory = round(int(Path("/proc/meminfo").read_text().split()[1]) / 2**20, 1)
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def version(package: str | None) -> str | None:
    try:
        return package and importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def choose(name: str, folder: Path, known: list[dict]) -> list[dict]:
    """The grid with its validation scores; `known` ones are not run again."""
    grid = []
    for settings in PROGRAMS[name].grid:
        scored = next((row for row in known if row["settings"] == settings), None)
        if scored is None:
            found = run(name, settings | {"seed": 0}, folder, "validation")
            scored = {"settings": settings, "rmse": found["points"][-1]["rmse"] if "points" in found else None}
            print(f"  {name:12} {settings}  validation {scored['rmse'] or found['failed']}", flush=True)
        grid.append(scored)
    return grid


def measure(names: list[str], chosen: dict, folder: Path, rounds: int) -> tuple[list[dict], dict]:
    """(rows, trajectories): medians over the rounds."""
    found = {name: {} for name in names}  # name -> iterations -> one record a round
    used, failed = dict.fromkeys(names, 0.0), {}
    for round_ in range(rounds):
        for name in names:
            settings = chosen[name] | {"seed": round_}
            if used[name] > SLOW or name in failed:
                continue
            for iterations in (*PROGRAMS[name].ladder, settings["iterations"]):
                record = run(name, settings | {"iterations": iterations}, folder, "test")
                if "failed" in record:
                    failed[name] = record["failed"]
                    print(f"{round_ + 1} {name:12} FAILED: {failed[name]}", flush=True)
                    break
                used[name] += record["seconds"]
                found[name].setdefault(iterations, []).append(record)
            else:
                print(f"{round_ + 1} {name:12} {record['points'][-1]}", flush=True)
    rows = [row(name, chosen[name], found[name], failed.get(name)) for name in names]
    return rows, {name: trajectory(found[name]) for name in names if name not in failed}


def row(name: str, settings: dict, found: dict, failed: str | None) -> dict:
    """One program in the table: its last point, medians over the rounds."""
    program = PROGRAMS[name]
    head = {"program": name, "label": program.label, "version": version(program.package), "settings": settings}
    if failed:
        return head | {"failed": failed}
    records = found[settings["iterations"]]
    numbers = {"rmse": round(median(r["points"][-1]["rmse"] for r in records), 5)}
    for key in ("seconds", "layout_seconds", "import_seconds", "predict_seconds", "peak_mb"):
        values = [r[key] for r in records if r[key] is not None]
        numbers[key] = round(median(values), 4) if values else None
    return head | numbers | {"rounds": len(records), "failed": None}


def trajectory(found: dict) -> list[dict]:
    """(iterations, seconds, rmse) on the way, medians over the rounds."""
    points = {}
    for records in found.values():
        for record in records:
            for point in record["points"]:
                points.setdefault(point["iterations"], []).append(point)
    return [
        {"iterations": k} | {key: round(median(p[key] for p in points[k]), 5) for key in ("seconds", "rmse")}
        for k in sorted(points)
    ]


def seconds_to(points: list[dict], rmse: float) -> float | None:
    """When a trajectory was first at `rmse` or below; None where it never was."""
    return min((p["seconds"] for p in points if p["rmse"] <= rmse), default=None)


def ratios(rows: list[dict], trajectories: dict) -> dict:
    """What is claimed, from rows and trajectories alone; a ratio without both its numbers is None."""
    table = {r["program"]: r for r in rows if not r["failed"]}

    def over(a: float | None, b: float | None) -> float | None:
        return round(a / b, 3) if a and b else None

    found = {"best_rmse": {name: min(p["rmse"] for p in points) for name, points in trajectories.items()}}
    if "surprise" in table:
        target = table["surprise"]["rmse"]
        reached = {name: seconds_to(points, target) for name, points in trajectories.items()}
        found |= {"target_rmse": target, "seconds_to_target": reached}
        found["times_sooner_than"] = {name: over(s, reached.get("mfkit_als")) for name, s in reached.items()}
    if {"myfm", "mfkit_bayes"} <= set(table):
        caught = seconds_to(trajectories["mfkit_bayes"], table["myfm"]["rmse"])
        found["bayes_seconds_to_myfm_rmse"], found["bayes_share_of_myfm"] = (
            caught,
            over(caught, table["myfm"]["seconds"]),
        )
    if {"example_1", "mfkit_train"} <= set(table):
        epochs = (
            table[name]["seconds"] / table[name]["settings"]["iterations"] for name in ("example_1", "mfkit_train")
        )
        found["loader_epoch_over_trainer_epoch"] = over(*epochs)
    return found


def write(result: dict, path: Path) -> None:
    """One row a line, moved into place whole."""
    lines = []
    for key, value in result.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n" + ",\n".join("    " + json.dumps(x) for x in value) + "\n  ]"
        elif isinstance(value, dict) and any(isinstance(x, list) for x in value.values()):
            text = "{\n" + ",\n".join(f"    {json.dumps(k)}: {json.dumps(x)}" for k, x in value.items()) + "\n  }"
        lines.append(f"  {json.dumps(key)}: {text}")
    partial = path.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    partial.replace(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--tune", action="store_true", help="choose settings anew")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if len(options.only) < len(PROGRAMS) and options.out == RESULTS:
        parser.error("--only leaves rows out: name another file with --out")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = prepare(folder)
        print(data["source"], flush=True)
        earlier = [json.loads(p.read_text()) for p in (options.out, RESULTS) if p.exists() and not options.tune]
        known = next((e["grid"] for e in earlier if e["data"]["sha256"] == data["sha256"]), {})
        grid = {name: choose(name, folder, known.get(name, [])) for name in options.only}
        best = {name: min(grid[name], key=lambda row: row["rmse"] or float("inf"))["settings"] for name in grid}
        rows, trajectories = measure(options.only, best, folder, options.rounds)
    protocol = {
        "threads": THREADS,
        "rounds": options.rounds,
        "slow_after_seconds": SLOW,
        "shares": SHARES,
        "clip": [1, 5],
    }
    found = ratios(rows, trajectories)
    result = {"machine": machine(), "data": data, "protocol": protocol, "grid": known | grid, "rows": rows}
    write(result | {"trajectories": trajectories, "ratios": found}, options.out)
    for row in rows:
        print(f"{row['label']:26}", row["failed"] or f"{row['rmse']:.4f}  {row['seconds']:8.2f} s  {row['peak_mb']} MB")
    print(json.dumps({key: value for key, value in found.items() if key != "best_rmse"}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        task = json.loads(sys.argv[2])
        folder = Path(task["folder"])
        result = child(task["name"], task["settings"], folder, task["part"])
        (folder / "out.json").write_text(json.dumps(result))
    else:
        main()
