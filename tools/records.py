"""The records of bench/records: JSON lines {run, commit, device, system, case, value, unit, n, spread, ceiling}, and where something must be told of a run, its note."""

import json
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def origin():
    """What all records of one measurement say of where they come from: run (UTC), commit, device."""
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    keys = {}
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            keys.setdefault(key.strip(), value.strip())
    device = keys.get("model name", "cpu")
    flags = keys.get("flags", "").split()
    if keys.get("vendor_id") == "GenuineIntel" and "avx512_bf16" in flags and "amx_tile" not in flags:
        device += " without AMX"  # such processors have it; virtual machines may hide it, under the same name
    return {"run": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit, "device": device}


def append(path, rows):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
