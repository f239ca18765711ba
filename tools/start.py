#!/usr/bin/env python3
"""Start and memory of an engine: `ingot bench start [ENGINE]` runs it.

Each round starts a server with a warm page cache and notes the time from the start of the process to /v2/health/ready and to the first
streamed token, and the resident memory after an answer; then `ingot build` runs once on --checkpoint and its private memory (RssAnon, where
the kernel tells it) is sampled. Bars: serving within 1 s, first token within 300 ms, resident at most weights + KV + 100 MB, build at most two layers
+ embedding + 200 MB. Medians go to bench/records/start.jsonl.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import records

ROOT = Path(__file__).resolve().parent.parent
INGOT = ROOT / "build" / "release" / "bin" / "ingot"


def status_bytes(pid, key):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def exchange(port, request, until=None):
    """One HTTP/1.1 exchange over a plain socket; ends at the bytes `until` (a streamed token), else at the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        s.sendall(request)
        got = b""
        while part := s.recv(65536):
            got += part
            if until and until in got:
                break
        return got


def get(port, path):
    return exchange(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())


def post(port, path, body, until=None):
    text = json.dumps(body).encode()
    return exchange(port, b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(text), text), until)


def measure_serve(engine, port, wrap, extra):
    """One server from start to stop: milliseconds and bytes."""
    command = [*wrap, INGOT, "serve", engine, "--http-address", "127.0.0.1", "--http-port", port, "--metrics-port", port + 2, "--grpc-port", port + 1, *extra]
    start = time.perf_counter()
    server = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                if b" 200 " in get(port, "/v2/health/ready")[:20]:
                    break
            except OSError:
                pass
            if server.poll() is not None or time.perf_counter() - start > 60:
                raise RuntimeError("the server did not become ready")
            time.sleep(0.001)
        ready = time.perf_counter() - start
        post(port, "/v2/models/ensemble/generate_stream", {"text_input": "Hello", "max_tokens": 8, "stream": True, "ignore_eos": True}, b"data:")
        first = time.perf_counter() - start
        post(port, "/v2/models/ensemble/generate", {"text_input": "What is machine learning? " * 4, "max_tokens": 64, "ignore_eos": True})
        pid = server.pid
        if wrap:  # the wrapped process is the last of the chain
            children = subprocess.run(["pgrep", "-f", f"serve {engine}.*--http-port {port}"], capture_output=True, text=True).stdout.split()
            pid = next(int(c) for c in children if Path(f"/proc/{c}/exe").resolve() == INGOT.resolve())
        memory = {k: status_bytes(pid, k) for k in ("VmRSS", "RssAnon", "RssFile")}
        os.kill(pid, signal.SIGTERM)
        return {"ready": ready * 1e3, "first": first * 1e3, **memory}
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()


def measure_build(checkpoint, flags):
    """Peak of the private memory of one build."""
    folder = tempfile.mkdtemp(prefix="ingot-start-")
    peak, total, start = 0, 0, time.perf_counter()
    try:
        child = subprocess.Popen([str(c) for c in [INGOT, "build", "--model_dir", checkpoint, "--output_dir", folder, *flags]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None:
            try:
                peak = max(peak, status_bytes(child.pid, "RssAnon"))
                total = max(total, status_bytes(child.pid, "VmHWM"))
            except OSError:
                break
            time.sleep(0.005)
        if child.wait() != 0:
            raise RuntimeError(f"ingot build ended with {child.returncode}")
        return {"anon": peak, "peak": total, "seconds": time.perf_counter() - start}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", nargs="?", default=str(ROOT / "build" / "compare" / "1.1b" / "ingot-int4"))
    parser.add_argument("--name", default="1.1b/int4", help="of the case in the records")
    parser.add_argument("--checkpoint", default=str(ROOT / "build" / "compare" / "1.1b" / "hf"), help="built to see the build's memory; empty: not")
    parser.add_argument("--build-flags", default="--use_weight_only --weight_only_precision int4")
    parser.add_argument("--kv-tokens", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=18300)
    parser.add_argument("--wrap", default="", help="command put before each measured process")
    parser.add_argument("--records", default=str(ROOT / "bench" / "records" / "start.jsonl"), help="empty: print only")
    o = parser.parse_args()
    if not Path(o.engine, "config.json").is_file():
        print(f"ingot bench start: {o.engine} is no engine folder; `ingot build` makes one, `ingot bench compare --prepare` the default one", file=sys.stderr)
        return 2
    samples = [measure_serve(Path(o.engine), o.port + 10 * i, shlex.split(o.wrap), ["--max-tokens-in-paged-kv-cache", o.kv_tokens]) for i in range(o.rounds + 1)][1:]  # the first warms the page cache
    config = json.loads(Path(o.engine, "config.json").read_text())["pretrained_config"]
    hidden, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    inspected = subprocess.run([INGOT, "inspect", o.engine], capture_output=True, text=True, check=True).stdout
    kv_type = re.search(r"KV cache +(\w+),", inspected)[1]
    kv = 2 * layers * kv_heads * (hidden // heads) * o.kv_tokens * {"f32": 4, "bf16": 2, "f16": 2}.get(kv_type, 1)
    weights = Path(o.engine, "rank0.engine").stat().st_size
    rows = [("ready", "ms", [s["ready"] for s in samples], 1000), ("first token", "ms", [s["first"] for s in samples], 300),
            ("resident", "MB", [s["VmRSS"] / 1e6 for s in samples], (weights + kv) / 1e6 + 100)]
    if samples[0]["RssAnon"]:
        rows.append(("private", "MB", [s["RssAnon"] / 1e6 for s in samples], 0))
    if o.checkpoint:
        layer = 2 * (2 * hidden * hidden + 2 * hidden * hidden // heads * kv_heads + 3 * hidden * inner)
        b = measure_build(o.checkpoint, shlex.split(o.build_flags))
        rows.append(("build private", "MB", [b["anon"] / 1e6], (2 * layer + 2 * hidden * config["vocab_size"]) / 1e6 + 200))
        rows.append(("build", "s", [b["seconds"]], 0))
    origin = records.origin()
    print("| what | median | spread | bar | |\n|---|---:|---:|---:|---|")
    lines = []
    for what, unit, values, bar in rows:
        median = statistics.median(values)
        spread = (max(values) - min(values)) / median if median else 0
        print(f"| {what} | {median:.0f} {unit} | {spread:.0%} | {f'{bar:.0f} {unit}' if bar else ''} | {('met' if median <= bar else 'MISSED') if bar else ''} |")
        lines.append({**origin, "system": "ingot", "case": f"{o.name}/{what}", "value": round(median, 2), "unit": unit, "n": len(values),
                      "spread": round(spread, 4), "ceiling": round(bar, 1)})
    if o.records:
        records.append(o.records, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
