#!/usr/bin/env python3
"""Load on a running server with random disconnects: 64 clients against the demo engine, loopback only, for --seconds.

Checks at the end: every page is back (nv_trt_llm_kv_cache_block_metrics used = 0), no request is stuck, resident memory is flat.
"""

import argparse
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import records

ROOT = Path(__file__).resolve().parent.parent
INGOT = ROOT / "build" / "release" / "bin" / "ingot"
KV_TOKENS = 8192


def resident_bytes(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) * 1024


def metric(port, pattern):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    c.request("GET", "/metrics")
    text = c.getresponse().read().decode()
    return [float(v) for v in re.findall(pattern + r"[^\n]* ([0-9.e+-]+)\n", text)]


def touch_pool(port):
    """Distinct prompts until every page of the KV pool has been written once: its memory becomes resident as it is touched, which is no leak."""
    r, words = random.Random(1), 0
    while words < 2 * KV_TOKENS:  # a word is a token or more
        text = " ".join(str(r.randrange(10, 100)) for _ in range(300))
        words += 300
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        c.request("POST", "/v2/models/ensemble/generate", json.dumps({"text_input": text, "max_tokens": 1, "bad_words": "", "stop_words": ""}), {"Content-Type": "application/json"})
        response = c.getresponse()
        if response.status != 200:
            raise RuntimeError(f"a prompt of 300 words was answered {response.status}: {response.read()[:300]}")
        response.read()
        c.close()


def record(path, rows):
    origin = records.origin()
    records.append(path, [{**origin, "system": "ingot", "case": what, "value": round(value, 1), "unit": unit, "n": 1, "spread": 0, "ceiling": 0} for what, value, unit in rows])


class Client(threading.Thread):
    def __init__(self, port, deadline, seed, counts, lock):
        super().__init__(daemon=True)
        self.port, self.deadline, self.random, self.counts, self.lock = port, deadline, random.Random(seed), counts, lock

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def run(self):
        while time.time() < self.deadline:
            words = " ".join(self.random.choice(["sea", "tree", "machine", "learning", "blue", "why", "how", "is"]) for _ in range(self.random.randint(1, 60)))
            body = json.dumps({"text_input": words, "max_tokens": self.random.randint(1, 48), "stream": True, "temperature": 0.8, "random_seed": self.random.randint(0, 9999)})
            try:
                c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
                c.request("POST", "/v2/models/ensemble/generate_stream", body, {"Content-Type": "application/json"})
                if self.random.random() < 0.15:  # leave at once
                    c.sock.close()
                    self.count("left before the answer")
                    continue
                response = c.getresponse()
                if response.status == 503:
                    self.count("refused (503)")
                    time.sleep(0.2)
                    continue
                if response.status != 200:
                    self.count(f"status {response.status}")
                    continue
                leave_after = self.random.randint(1, 2000) if self.random.random() < 0.25 else None
                got = 0
                while chunk := response.read1(4096):
                    got += len(chunk)
                    if leave_after and got > leave_after:
                        break
                self.count("left while it streamed" if leave_after and got > leave_after else "complete")
                c.close()
            except OSError as e:
                self.count(f"error {type(e).__name__}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default=str(ROOT / "build" / "demo" / "engine"))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--port", type=int, default=18200)
    parser.add_argument("--records", default="", help="file of JSON lines that the result is appended to")
    o = parser.parse_args()
    server = subprocess.Popen([INGOT, "serve", o.engine, "--http-port", str(o.port), "--metrics-port", str(o.port + 2), "--grpc-port", str(o.port + 1), "--http-address", "127.0.0.1",
                               "--max-tokens-in-paged-kv-cache", str(KV_TOKENS)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
    ok = True
    try:
        for _ in range(300):
            try:
                http.client.HTTPConnection("127.0.0.1", o.port, timeout=1).request("GET", "/v2/health/ready")
                break
            except OSError:
                time.sleep(0.1)
        touch_pool(o.port)
        counts, lock, deadline = {}, threading.Lock(), time.time() + o.seconds
        clients = [Client(o.port, deadline, i, counts, lock) for i in range(o.clients)]
        for c in clients:
            c.start()
        time.sleep(min(20, o.seconds / 4))
        early = resident_bytes(server.pid)
        for c in clients:
            c.join(timeout=o.seconds + 150)
        stuck = sum(c.is_alive() for c in clients)
        late = resident_bytes(server.pid)
        used, end = [1.0], time.time() + 20
        while time.time() < end and any(used):
            used = metric(o.port + 2, r'nv_trt_llm_kv_cache_block_metrics\{[^}]*kv_cache_block_type="used"[^}]*\}')
            time.sleep(0.5)
        print("| result | count |\n|---|---:|")
        for what, n in sorted(counts.items()):
            print(f"| {what} | {n} |")
        grown = late / early - 1
        print(f"\npages used at the end: {max(used):.0f}   stuck clients: {stuck}   resident memory: {early / 1e6:.0f} MB early, {late / 1e6:.0f} MB late ({grown:+.1%})")
        if o.records:
            record(o.records, [*((what, n, "requests") for what, n in sorted(counts.items())), ("pages used at the end", max(used), "pages"), ("stuck clients", stuck, "clients"),
                               ("clients", o.clients, "clients"), ("duration", o.seconds, "s"), ("resident memory, early", early / 1e6, "MB"), ("resident memory, late", late / 1e6, "MB")])
        bad = [w for w in counts if w.startswith(("status", "error"))]
        ok = max(used) == 0 and stuck == 0 and grown < 0.10 and not bad and server.poll() is None
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=40)
        except subprocess.TimeoutExpired:
            server.kill()
            ok = False
    print("soak: passed" if ok else "soak: FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
