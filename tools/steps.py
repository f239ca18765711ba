#!/usr/bin/env python3
"""What a decode step costs beside its kernels: tools/steps.py [ENGINE], by default the demo model in int4 of `ingot bench compare`.

A server with --profile streams answers to one client. Two shares of the time of a step, which together must stay below 3 %: what the step
itself spends outside its kernels (sampling, tokens and tables before the first kernel, the pause to the next step), from the profile; and the CPU
time of all other threads of the server (scheduling, detokenising, writing events), which is taken from the cores that the kernels use,
from /proc/PID/task/*/schedstat. Medians go to bench/records/steps.jsonl.
"""

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import load
import records


def cpu_seconds(pid):
    return {t.name: int((t / "schedstat").read_text().split()[0]) / 1e9 for t in Path(f"/proc/{pid}/task").iterdir()}


def measure(engine, port, threads, tokens):
    """One server: milliseconds of a step, and shares of it in percent."""
    command = [load.INGOT, "serve", engine, "--http-address", "127.0.0.1", "--http-port", port, "--allow-grpc=false", "--allow-metrics=false", "--threads", threads, "--profile"]
    server = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        asyncio.run(load.wait_ready(port, server))
        asyncio.run(load.request(port, "hello", 64, []))
        before, start = cpu_seconds(server.pid), time.perf_counter()
        asyncio.run(load.request(port, "the sea is deep and blue", tokens, []))
        wall, after = time.perf_counter() - start, cpu_seconds(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        _, text = server.communicate(timeout=30)
    used = sorted((s - before.get(t, 0) for t, s in after.items()), reverse=True)  # the team's threads compute or spin all the time
    one = re.search(r"steps of 1 token: \d+, .*?, ([\d.]+) ms\n((?:  .*\n)+)", text)
    if not one:
        raise RuntimeError(f"the server printed no profile: {text[-300:]}")
    microseconds = {name: float(us) for name, us in re.findall(r"^  (\S.*?) +[\d.]+ calls +([\d.]+) us", one[2], re.M)}
    between = microseconds.get("(between steps)", 0)
    step = float(one[1]) * 1e3 + between
    own = {"sampling": microseconds["(sampling)"] / step * 100, "before the first kernel": microseconds["(before)"] / step * 100, "between steps": between / step * 100,
           "other threads": sum(used[threads:]) / (wall * threads) * 100}
    return {"decode step": step / 1e3, **own, "all beside kernels": sum(own.values())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", nargs="?", default=str(load.WORK / "demo" / "ingot-int4"))
    parser.add_argument("--name", default="demo/int4", help="of the engine in the records")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=18540)
    parser.add_argument("--records", default=str(load.ROOT / "bench" / "records" / "steps.jsonl"), help="empty: print only")
    o = parser.parse_args()
    rounds = [measure(o.engine, o.port, o.threads, o.tokens) for _ in range(o.rounds)]
    origin, lines = records.origin(), []
    for case in rounds[0]:
        values = [r[case] for r in rounds]
        middle, unit = statistics.median(values), "ms" if case == "decode step" else "%"
        print(f"{case:<24} {middle:8.3f} {unit}   {min(values):.3f} to {max(values):.3f}")
        lines.append({**origin, "system": "ingot", "case": f"{o.name}/{case}", "value": round(middle, 3), "unit": unit, "n": o.rounds,
                      "spread": round((max(values) - min(values)) / middle, 4) if middle else 0.0, "ceiling": 3.0 if case == "all beside kernels" else 0.0})
    if o.records:
        records.append(o.records, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
