"""The records of bench/records: JSON lines {run, commit, device, system, case, value, unit, n, spread, ceiling}, and where something must be told of a run, its note."""

import json
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def origin():
    """What all records of one measurement say of where they come from: run (UTC), commit, device."""
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    with open("/proc/cpuinfo") as lines:
        device = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "cpu")
    return {"run": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit, "device": device}


def append(path, rows):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
