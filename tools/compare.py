#!/usr/bin/env python3
"""Ingot beside its peers on this machine: llama.cpp (PyPI llama-cpp-python, built natively) and OpenVINO GenAI, on one GGUF file.

`ingot bench compare` runs it. All systems take turns in each round, with the same threads, so that a busy minute hits all of them;
the medians, their ratio to the best peer and the spread are printed and appended to bench/records/compare.jsonl. A peer that cannot be
installed is named and left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INGOT = ROOT / "build" / "release" / "bin" / "ingot"
PEERS = {"llama.cpp": "llama-cpp-python==0.3.36", "openvino": "openvino-genai==2026.4.1.0"}

# Each prints one JSON object: {"prefill": tok/s, "decode": tok/s}.
RUNNERS = {
    "llama.cpp": """
import json, sys, time
import llama_cpp
model, threads, prefill, decode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
llm = llama_cpp.Llama(model, n_threads=threads, n_threads_batch=threads, n_ctx=2048, n_batch=512, verbose=False)
ids = [100 + i * 7 % 20000 for i in range(prefill)]
llm.eval(ids[:16]); llm.reset()
t = time.perf_counter(); llm.eval(ids); pre = prefill / (time.perf_counter() - t)
llm.reset(); llm.eval(ids[:16]); t = time.perf_counter()
for i in range(decode): llm.eval([ids[i % prefill]])
print(json.dumps({"prefill": pre, "decode": decode / (time.perf_counter() - t)}))
""",
    "openvino": """
import json, sys, time
import numpy, openvino, openvino_genai
model, threads, prefill, decode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
pipe = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
def run(n_in, n_out):
    ids = openvino.Tensor(numpy.array([[100 + i * 7 % 20000 for i in range(n_in)]], dtype=numpy.int64))
    t = time.perf_counter()
    pipe.generate(ids, max_new_tokens=n_out, ignore_eos=True, do_sample=False)
    return time.perf_counter() - t
run(16, 2)
pre = prefill / run(prefill, 1)
one, many = run(16, 1), run(16, decode + 1)
print(json.dumps({"prefill": pre, "decode": decode / (many - one)}))
""",
}


def install(name, package):
    folder = ROOT / "build" / "peers" / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing {package} (once)", flush=True)
        venv.create(folder, with_pip=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", package, "numpy"], capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{name} is left out: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'pip failed'}")
            return None
        (folder / "installed").touch()
    return python


def run_ingot(engine, threads, prefill, decode):
    done = subprocess.run([INGOT, "bench", "offline", engine, "--threads", str(threads), "--prefill-len", str(prefill), "--input-len", "16",
                           "--output-len", str(decode), "--batch", "1", "--runs", "1", "--json"], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {r["phase"]: r["tokens_per_second"] for r in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="GGUF file (default: the demo's)")
    parser.add_argument("--engine", default=str(ROOT / "build" / "demo" / "engine"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    o = parser.parse_args()
    model = o.model or next(iter(sorted(str(p) for p in (ROOT / "build" / "demo" / "model").glob("*.gguf"))), "")
    if not model or not Path(o.engine, "rank0.engine").exists():
        print("compare: no demo model or engine: run `make demo` first, or name --model FILE.gguf --engine DIR", file=sys.stderr)
        return 1
    pythons = {name: python for name, package in PEERS.items() if (python := install(name, package))}
    samples = {}
    for i in range(o.rounds):
        for name in ["ingot", *pythons]:
            try:
                if name == "ingot":
                    result = run_ingot(o.engine, o.threads, o.prefill, o.decode)
                else:
                    done = subprocess.run([pythons[name], "-c", RUNNERS[name], model, str(o.threads), str(o.prefill), str(o.decode)],
                                          capture_output=True, text=True, timeout=600)
                    if done.returncode != 0:
                        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")
                    result = json.loads(done.stdout.strip().splitlines()[-1])
            except (RuntimeError, subprocess.SubprocessError, ValueError) as e:
                print(f"round {i + 1}: {name} failed: {e}")
                continue
            for phase, value in result.items():
                samples.setdefault((phase, name), []).append(value)
    records = ROOT / "bench" / "records" / "compare.jsonl"
    records.parent.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    run = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    device = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "cpu")
    print(f"\n{Path(model).name}, {o.threads} threads, {o.rounds} rounds, medians\n\n| phase | system | tok/s | spread | ingot / it |\n|---|---|---:|---:|---:|")
    with open(records, "a") as out:
        for phase in ("prefill", "decode"):
            own = samples.get((phase, "ingot"))
            for name in ["ingot", *pythons]:
                values = samples.get((phase, name))
                if not values:
                    continue
                median = statistics.median(values)
                spread = (max(values) - min(values)) / median
                ratio = statistics.median(own) / median if own else float("nan")
                print(f"| {phase} | {name} | {median:.1f} | {spread:.0%} | {ratio:.2f} |")
                out.write(json.dumps({"run": run, "commit": commit, "device": device, "system": name, "case": f"{Path(model).stem}/{phase}/1", "value": median,
                                      "unit": "tok/s", "n": len(values), "spread": spread, "ceiling": 0}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
