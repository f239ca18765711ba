#!/usr/bin/env python3
"""Mixed load on a server: open-loop Poisson arrivals, random prompt and answer lengths, at most --users at once; `ingot bench load` runs it.

Systems are servers on the same model behind the same client: Ingot, llama.cpp with continuous batching (bench/peers/serve_llama_cpp.py) and
OpenVINO's ContinuousBatchingPipeline (serve_openvino.py). Each arrival rate is one round: all systems take turns with the same arrivals and lengths. A
point is (tokens per second, 95th percentile of the gaps between the tokens of a request). Points go to bench/records/load.jsonl; at
the end stands each system's best rate among points whose gap is within that of the peers' fastest one.
"""

import argparse
import asyncio
import json
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import records

ROOT = Path(__file__).resolve().parent.parent
INGOT = ROOT / "build" / "release" / "bin" / "ingot"
PEERS, WORK = ROOT / "build" / "peers", ROOT / "build" / "compare"
WORDS = "the sea is deep and blue a tree grows near water people learn from old books machines count fast light travels through glass".split()


def schedule(rate, seconds, seed):
    """Arrival seconds, prompt words, answer tokens; equal for all systems."""
    r, at, list_ = random.Random(seed), 0.0, []
    while True:
        at += r.expovariate(rate)
        if at > seconds:
            return list_
        list_.append((at, " ".join(r.choice(WORDS) for _ in range(r.randint(16, 256))), r.randint(16, 128)))


async def request(port, prompt, tokens, times):
    """Streams one completion; appends the arrival time of each event that brings tokens."""
    body = json.dumps({"model": "ensemble", "prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True, "temperature": 0}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError((head + await reader.read(2000)).decode(errors="replace")[:600])
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                break
            if line.startswith(b"data: ") and b'"text"' in line:
                times.append(time.perf_counter())
    finally:
        writer.close()


async def drive(port, arrivals, users):
    """Runs a schedule; requests beyond `users` wait at the client, and their wait counts in the time to the first token."""
    slots, start, results = asyncio.Semaphore(users), time.perf_counter(), []

    async def one(at, prompt, tokens):
        await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
        times = []
        async with slots:
            await request(port, prompt, tokens, times)
        results.append((start + at, tokens, times))

    await asyncio.gather(*(one(*a) for a in arrivals))
    end = max(t[-1] for _, _, t in results)
    gaps = sorted(b - a for _, _, t in results for a, b in zip(t, t[1:]))
    first = sorted(t[0] - at for at, _, t in results)
    tokens = sum(n for _, n, _ in results)

    def percentile(v, p):
        return v[min(len(v) - 1, int(p * len(v)))]

    return {"tokens_per_second": tokens / (end - start), "gap_p50": percentile(gaps, 0.5) * 1e3, "gap_p95": percentile(gaps, 0.95) * 1e3,
            "first_p50": percentile(first, 0.5) * 1e3, "first_p95": percentile(first, 0.95) * 1e3, "requests": len(results),
            "events_per_token": sum(len(t) for _, _, t in results) / tokens}


def commands(threads, users):
    """system -> (command with {port}, what must exist)."""
    return {
        "ingot": ([INGOT, "serve", WORK / "demo" / "ingot-int4", "--http-address", "127.0.0.1", "--http-port", "{port}", "--grpc-port", "0", "--allow-grpc=false", "--allow-metrics=false",
                   "--threads", threads, "--max-batch-size", users, "--reuse-prefix=false", "--max-tokens-in-paged-kv-cache", 65536], WORK / "demo" / "ingot-int4"),
        "llama.cpp": ([PEERS / "llama.cpp" / "bin" / "python", ROOT / "bench" / "peers" / "serve_llama_cpp.py", WORK / "demo" / "model.gguf", threads, "{port}", users],
                      WORK / "demo" / "model.gguf"),
        "openvino": ([PEERS / "openvino" / "bin" / "python", ROOT / "bench" / "peers" / "serve_openvino.py", WORK / "demo" / "openvino" / "int4", threads, "{port}"],
                     WORK / "demo" / "openvino" / "int4" / "openvino_model.xml"),
    }


async def wait_ready(port, server):
    path = "/v2/health/ready" if server.args[0] == str(INGOT) else "/health"
    for _ in range(600):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            line = await asyncio.wait_for(reader.readline(), 5)
            writer.close()
            if b" 200" in line:
                return
        except (OSError, asyncio.TimeoutError):
            pass
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        await asyncio.sleep(0.1)
    raise RuntimeError("the server was not ready after 60 s")


def measure(command, port, arrivals, users):
    """One point: a fresh server, a warm-up request, the schedule."""
    text = [str(c).replace("{port}", str(port)) for c in command]
    server = subprocess.Popen(text, stdout=subprocess.DEVNULL, stderr=open(WORK / "load_server.log", "w"), start_new_session=True)
    try:
        asyncio.run(wait_ready(port, server))
        asyncio.run(request(port, "hello", 8, []))
        return asyncio.run(drive(port, arrivals, users))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", type=float, default=[1, 2, 4, 8], help="arrivals per second")
    parser.add_argument("--seconds", type=float, default=15, help="of arrivals at each rate")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--systems", nargs="+", default=["ingot", "llama.cpp", "openvino"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--port", type=int, default=18500)
    parser.add_argument("--point", default="", help="measure one SYSTEM:RATE:SEED and print its JSON (what --wrap wraps)")
    parser.add_argument("--wrap", default="", help="command put before each point")
    parser.add_argument("--records", default=str(ROOT / "bench" / "records" / "load.jsonl"), help="empty: print only")
    o = parser.parse_args()
    table = commands(o.threads, o.users)
    if o.point:
        system, rate, seed = o.point.split(":")
        print(json.dumps(measure(table[system][0], o.port, schedule(float(rate), o.seconds, int(seed)), o.users)))
        return 0
    systems = [s for s in o.systems if table[s][1].exists()]
    for s in o.systems:
        if s not in systems:
            print(f"{s} is left out: {table[s][1].relative_to(ROOT)} is not there")
    points = {}
    for rate in o.rates:
        for i in range(o.rounds):
            for k, system in enumerate(systems):
                done = subprocess.run([*shlex.split(o.wrap), sys.executable, __file__, "--point", f"{system}:{rate}:{i}", "--seconds", str(o.seconds), "--users", str(o.users),
                                       "--threads", str(o.threads), "--port", str(o.port + 10 * k)], capture_output=True, text=True)
                if done.returncode != 0:
                    print(f"{system} at {rate}/s failed: {(done.stderr.strip() or 'no output').splitlines()[-1]}", flush=True)
                    continue
                p = json.loads(done.stdout.strip().splitlines()[-1])
                points.setdefault((system, rate), []).append(p)
                print(f"{system:<13} {rate:5.1f}/s  {p['tokens_per_second']:7.1f} tok/s  gap p50 {p['gap_p50']:6.1f} ms  p95 {p['gap_p95']:6.1f} ms  first token p50 {p['first_p50']:7.1f} ms"
                      f"  p95 {p['first_p95']:7.1f} ms  {p['requests']} requests", flush=True)
    if not points:
        return 1
    middle = {k: {f: statistics.median(p[f] for p in v) for f in v[0]} for k, v in points.items()}
    peers = [m for (s, _), m in middle.items() if s != "ingot"]
    best = max(peers, key=lambda m: m["tokens_per_second"], default=None)
    origin, lines = records.origin(), []

    def record(system, case, value, unit, n, spread=0.0, ceiling=0.0):
        lines.append({**origin, "system": system, "case": case, "value": round(value, 3), "unit": unit, "n": n, "spread": round(spread, 4),
                      "ceiling": round(ceiling, 3)})

    for (system, rate), m in middle.items():
        n = len(points[system, rate])
        for field, unit in (("tokens_per_second", "tok/s"), ("gap_p95", "ms"), ("first_p95", "ms")):
            values = [p[field] for p in points[system, rate]]
            record(system, f"load/demo/int4/{rate:g} per s/{field}", m[field], unit, n, (max(values) - min(values)) / m[field])
    if best:
        limit = best["gap_p95"]
        print(f"\nbest peer: {best['tokens_per_second']:.1f} tok/s with gaps of {limit:.1f} ms (95 %); within that gap:")
        for system in systems:
            within = [m["tokens_per_second"] for (s, _), m in middle.items() if s == system and m["gap_p95"] <= limit]
            print(f"  {system:<13} {max(within, default=0):.1f} tok/s")
            record(system, "load/demo/int4/within the peers' gap", max(within, default=0), "tok/s", o.rounds, ceiling=limit)
    if o.records:
        records.append(o.records, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
