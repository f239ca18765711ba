#!/usr/bin/env python3
"""Everything that CI runs, stage by stage: release build and ctest, sanitizer builds, fuzz targets. `make test` calls it.

Stops at the first stage that fails (its output is printed whole); always ends with a table of the stages and ctest's closing lines.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JOBS = str(os.cpu_count())
CLIENTS = ROOT / "build" / "venv" / "bin" / "python"  # has the published clients (tools/requirements-test.txt)
os.environ.setdefault("INGOT_CLIENT_PYTHON", str(CLIENTS))

# Modules whose tests run under a sanitizer: those that read foreign bytes, and those with threads.
ASAN_TESTS = ["base_test", "tensor_test", "formats_test", "checkpoint_test", "text_test", "sched_test", "plan_test", "server_test",
              "repository_test"]
TSAN_TESTS = ["base_test", "team_test", "sched_test", "engine_test", "server_test", "python_backend_test"]


def call(command, log):
    """Runs a command, streaming nothing; returns (exit code, output)."""
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")
    log.append(done.stdout)
    return done.returncode


def build(preset, targets, log):
    configure = ["cmake", "--preset", preset]
    compile_ = ["cmake", "--build", "--preset", preset, "--parallel", JOBS]
    if targets:
        compile_ += ["--target", *targets]
    return call(configure, log) or call(compile_, log)


def ctest(preset, log, extra=()):
    code = call(["ctest", "--test-dir", f"build/{preset}", "--output-on-failure", "--parallel", JOBS, "--no-tests=error", *extra], log)
    # What CI skips, it does not prove. There is no GPU here, and those tests say so.
    skipped = [line for line in log[-1].splitlines() if "***Skipped" in line and "cuda" not in line]
    if os.environ.get("CI") and skipped:
        log.append("CI is set, but these tests were skipped:\n" + "\n".join(skipped))
        return code or 1
    return code


def sanitized(preset, tests, log):
    names = "|".join(f"unit_{t.removesuffix('_test')}" for t in tests)
    return build(preset, tests, log) or ctest(preset, log, ["-R", f"^({names})$"])


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()  # no flags; --help must not begin half an hour of tests
    stages = [
        ("release build", lambda log: build("release", [], log)),
        ("demo", lambda log: call([sys.executable, "tools/demo.py", "--port", "18080"], log)),
        ("release tests", lambda log: ctest("release", log)),
        ("asan + ubsan", lambda log: sanitized("asan", ASAN_TESTS, log)),
        ("tsan", lambda log: sanitized("tsan", TSAN_TESTS, log)),
        ("fuzz", lambda log: call([sys.executable, "tools/fuzz.py", "--seconds", "10"], log)),
    ]
    rows, code, closing = [], 0, []
    for name, run in stages:
        print(f"== {name}", flush=True)
        log, start = [], time.time()
        code = run(log)
        seconds = time.time() - start
        rows.append((name, "ok" if code == 0 else "FAILED", seconds))
        print(f"   {rows[-1][1]} in {seconds:.0f} s", flush=True)
        if name == "release tests":
            closing = [line for line in log[0].splitlines() if "tests passed" in line or "Total Test time" in line]
        if code != 0:
            print("\n".join(log)[-60000:])
            break
    print("\n| stage | result | seconds |\n|---|---|---|")
    for name, result, seconds in rows:
        print(f"| {name} | {result} | {seconds:.0f} |")
    print(f"| all | {'ok' if code == 0 else 'FAILED'} | {sum(r[2] for r in rows):.0f} |\n")
    print("\n".join(closing))
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
