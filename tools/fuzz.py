#!/usr/bin/env python3
"""Builds the libFuzzer targets (preset `fuzz`) and runs each for --seconds; a finding is kept beside the build and fails the run."""

import argparse
import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "fuzz"


def run_target(target, seconds):
    corpus = BUILD / "corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = ROOT / "tests" / "fuzz" / target.name
    command = [str(target), f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=20", "-print_final_stats=1",
               f"-artifact_prefix={BUILD}/{target.name}-", str(corpus)] + ([str(seeds)] if seeds.is_dir() else [])
    start = time.time()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    runs = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "?")
    return target.name, done.returncode, runs, time.time() - start, done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="per target")
    parser.add_argument("--only", default="", help="run only targets whose name contains this")
    options = parser.parse_args()
    for command in (["cmake", "--preset", "fuzz"], ["cmake", "--build", "--preset", "fuzz", "--target", "fuzzers"]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stdout[-6000:], done.stderr[-3000:], f"fuzz: {' '.join(command)} failed", sep="\n")
            return 1
    targets = sorted(p for p in (BUILD / "fuzz").iterdir() if os.access(p, os.X_OK) and p.is_file() and options.only in p.name)
    if not targets:
        print("fuzz: no target was built")
        return 1
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, code, runs, seconds, log in pool.map(lambda t: run_target(t, options.seconds), targets):
            print(f"  {name:<28} {runs:>10} runs  {seconds:5.1f} s  {'ok' if code == 0 else 'FINDING'}", flush=True)
            if code != 0:
                failed += 1
                print(log[-4000:])
    print(f"fuzz: {len(targets) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
