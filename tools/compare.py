#!/usr/bin/env python3
"""Ingot beside its peers on this machine: llama.cpp, OpenVINO GenAI and CTranslate2, each in its best comparable format.

`ingot bench compare` runs it. Peers come from PyPI (llama-cpp-python built natively from its source) into build/peers, models are made
once in build/compare. In each round all systems take turns on the same shapes with the same number of threads, so that a busy minute hits
all of them; medians and ratios to the best peer are printed and written to bench/records/compare.jsonl. A peer that cannot be installed is
named and left out. --run NAME lets several calls add rounds to one run: every sample is kept in build/compare/samples.jsonl.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

import records

ROOT = Path(__file__).resolve().parent.parent
INGOT = ROOT / "build" / "release" / "bin" / "ingot"
PEERS, WORK, SCRIPTS = ROOT / "build" / "peers", ROOT / "build" / "compare", ROOT / "bench" / "peers"

# pip's cache does not know with which flags a wheel was compiled.
LLAMA = ["--no-cache-dir", "--no-binary", "llama-cpp-python", "llama-cpp-python==0.3.36", "numpy"]
LLAMA_CMAKE = "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF"
AVX2_CMAKE = "-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
ENVIRONMENTS = {  # virtual environment: pip arguments, CMake arguments of a source build
    "llama.cpp": (LLAMA, f"-DGGML_NATIVE=ON {LLAMA_CMAKE}"),
    "llama.cpp-avx2": (LLAMA, f"{AVX2_CMAKE} {LLAMA_CMAKE}"),
    "openvino": (["openvino-genai==2026.4.1.0", "numpy"], ""),
    "ctranslate2": (["ctranslate2==4.8.5", "numpy"], ""),
    "export": (["torch==2.15.0", "optimum-intel[openvino]==2.2.0", "nncf==3.4.0", "openvino-tokenizers==2026.4.1.0", "ctranslate2==4.8.5", "gguf==0.19.0", "accelerate==1.15.0"], ""),
}

# suite -> rows (format, system, virtual environment, script, model below build/compare, environment of the process)
AVX2 = {"INGOT_ISA": "avx2"}
ONE_B = [
    ("int4", "ingot", "", "", "1.1b/ingot-int4", {}),
    ("int4", "llama.cpp", "llama.cpp", "run_llama_cpp.py", "1.1b/q4_0.gguf", {}),
    ("int4", "openvino", "openvino", "run_openvino.py", "1.1b/openvino/int4", {}),
    ("int8", "ingot", "", "", "1.1b/ingot-int8", {}),
    ("int8", "llama.cpp", "llama.cpp", "run_llama_cpp.py", "1.1b/q8_0.gguf", {}),
    ("int8", "openvino", "openvino", "run_openvino.py", "1.1b/openvino/int8", {}),
    ("int8", "ctranslate2", "ctranslate2", "run_ctranslate2.py", "1.1b/ctranslate2-int8", {}),
    ("bf16", "ingot", "", "", "1.1b/ingot-bf16", {"INGOT_ACTIVATIONS": "bf16"}),  # as the peers round them
    ("bf16 exact", "ingot", "", "", "1.1b/ingot-bf16", {}),
    ("bf16", "llama.cpp", "llama.cpp", "run_llama_cpp.py", "1.1b/bf16.gguf", {}),
    ("bf16", "openvino", "openvino", "run_openvino.py", "1.1b/openvino/fp16", {}),
]
SUITES = {
    "1.1b": ONE_B,
    "demo": [
        ("int4", "ingot", "", "", "demo/ingot-int4", {}),
        ("int4", "llama.cpp", "llama.cpp", "run_llama_cpp.py", "demo/model.gguf", {}),
        ("int4", "openvino", "openvino", "run_openvino.py", "demo/openvino/int4", {}),
        ("int8", "ingot", "", "", "demo/ingot-int8", {}),
        ("int8", "llama.cpp", "llama.cpp", "run_llama_cpp.py", "demo/q8_0.gguf", {}),
        ("int8", "openvino", "openvino", "run_openvino.py", "demo/openvino/int8", {}),
        ("int8", "ctranslate2", "ctranslate2", "run_ctranslate2.py", "demo/ctranslate2-int8", {}),
    ],
    "avx2": [
        ("int4", "ingot", "", "", "1.1b/ingot-int4-avx2", AVX2),
        ("int4", "llama.cpp", "llama.cpp-avx2", "run_llama_cpp.py", "1.1b/q4_0.gguf", {}),
        ("int8", "ingot", "", "", "1.1b/ingot-int8-avx2", AVX2),
        ("int8", "llama.cpp", "llama.cpp-avx2", "run_llama_cpp.py", "1.1b/q8_0.gguf", {}),
    ],
    "depth": [row for row in ONE_B if row[0] == "int4"],
}


def case(phase, batch, length, output):
    return {"phase": phase, "batch": batch, "input": length, "output": output}


def cases_of(suite, depths):
    if suite == "depth":
        return [case("decode", 1, d, 32) for d in depths]
    steps = {1: 64, 8: 32, 16: 32} if suite == "demo" else {1: 32, 8: 16, 16: 12}  # a few seconds each
    return [case("prefill", 1, 512, 1), *(case("decode", b, 16, n) for b, n in steps.items())]


def case_name(suite, form, c):
    phase = f"decode@{c['input']}" if suite == "depth" else "prefill512" if c["phase"] == "prefill" else "decode"
    return f"{'1.1b' if suite == 'depth' else '1.1b-avx2' if suite == 'avx2' else suite}/{form}/{phase}/{c['batch']}"


def call(command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace", **options)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise RuntimeError(f"{Path(str(command[0])).name} ended with {done.returncode}: {' / '.join(lines[-3:])}")
    return done.stdout


def python_of(name):
    """The interpreter of a virtual environment under build/peers, made on first use."""
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        packages, cmake = ENVIRONMENTS[name]
        print(f"installing {packages[-2] if len(packages) > 1 else packages[0]} into build/peers/{name} (once)", flush=True)
        venv.create(folder, with_pip=True)
        # gcc 12 takes the tile configuration of llama.cpp's AMX code for dead stores (its _tile_loadconfig names 8 of 64 bytes), and the program dies of it.
        variables = {"CMAKE_ARGS": cmake, "CXXFLAGS": "-fno-tree-dse -fno-dse"} if cmake else {}
        call([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], env={**os.environ, **variables})
        (folder / "installed").touch()
    return python


def once(target, commands):
    """Runs the commands unless `target` is there."""
    if not target.exists():
        print(f"making {target.relative_to(ROOT)} (once)", flush=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        for command in commands:
            call(command)


def make_engine(target, model, flags, isa=""):
    """An engine is made again when the binary changed: its kernels and packing belong to it."""
    stamp, mark = target / "made_by", f"{INGOT.stat().st_mtime_ns} {INGOT.stat().st_size}"
    if stamp.exists() and stamp.read_text() == mark:
        return
    print(f"building {target.relative_to(ROOT)}", flush=True)
    call([INGOT, "build", "--model_dir", model, "--output_dir", target, *flags], env={**os.environ, **({"INGOT_ISA": isa} if isa else {})})
    stamp.write_text(mark)


def make_model(path):
    """Makes one model of the tables above; names its prerequisites itself."""
    target = WORK / path
    shape, name = path.split("/", 1)
    folder = WORK / shape
    if shape == "1.1b":
        once(folder / "bf16.gguf", [[python_of("export"), SCRIPTS / "make_checkpoint.py", "tinyllama-1.1b", folder]])
        source, base = folder / "hf", folder / "bf16.gguf"
    else:
        found = sorted((ROOT / "build" / "demo" / "model").glob("*.gguf"))
        if not found:
            raise RuntimeError("there is no demo model: run `make demo` first")
        source = base = folder / "model.gguf"
        if not base.exists():
            folder.mkdir(parents=True, exist_ok=True)
            base.symlink_to(found[0])
    if name.startswith("ingot-"):
        form = name.removeprefix("ingot-").removesuffix("-avx2")
        # The demo's int4 is the file's own Q4_1 blocks.
        flags = [] if form == "bf16" or (shape == "demo" and form == "int4") else ["--use_weight_only", "--weight_only_precision", form]
        make_engine(target, source, flags, "avx2" if name.endswith("-avx2") else "")
    elif name in ("q4_0.gguf", "q8_0.gguf"):
        once(target, [[python_of("llama.cpp"), SCRIPTS / "quantize_gguf.py", base, target, name[:4].upper()]])
    elif name.startswith(("openvino", "ctranslate2")):
        hf = folder / "hf"
        if shape == "demo":
            once(hf / "config.json", [[python_of("export"), SCRIPTS / "gguf_to_hf.py", base.resolve(), hf]])
        if name.startswith("openvino"):
            once(target / "openvino_model.xml", [[python_of("export"), SCRIPTS / "export_openvino.py", hf, folder / "openvino"]])
        else:
            once(target / "model.bin", [[python_of("export").parent / "ct2-transformers-converter", "--model", hf, "--quantization", "int8", "--force", "--output_dir", target]])
    return target


def run_ingot(model, threads, cases, environment, wrap):
    """One process for all cases of equal input, with the longest of their outputs; a case's ceiling is the read limit that the process measured itself."""
    results = []
    decodes = [c for c in cases if c["phase"] == "decode"]
    prefill = next((c["input"] for c in cases if c["phase"] == "prefill"), 0)
    for length in sorted({c["input"] for c in decodes}):
        same = [c for c in decodes if c["input"] == length]
        out = call([*wrap, INGOT, "bench", "offline", model, "--huge-pages", "--threads", threads, "--prefill-len", prefill, "--input-len", length, "--output-len", max(c["output"] for c in same) + 1,
                    "--batch", *(c["batch"] for c in same), "--runs", 1, "--json"], env={**os.environ, **environment})
        for row in (json.loads(line) for line in out.splitlines() if line.startswith("{")):
            c = next(c for c in cases if c["phase"] == row["phase"] and c["batch"] == row["batch"] and (row["phase"] == "prefill" or c["input"] == length))
            used, limit = row["bytes_per_second"], row["read_limit"]
            results.append({**c, "value": row["tokens_per_second"], "ceiling": row["tokens_per_second"] * limit / used if used else 0})
        prefill = 0
    return results


def run_peer(python, script, model, threads, cases, wrap):
    out = call([*wrap, python, SCRIPTS / script, model, threads, json.dumps(cases)])
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def report(samples, run, records_path, note=""):
    """Prints the table of a run and puts its medians into the records, in place of what they hold of the same run."""
    values, ceilings, order = {}, {}, []
    for s in samples:
        key = (s["case"], s["system"])
        if key not in values:
            order.append(key)
        values.setdefault(key, []).append(s["value"])
        ceilings.setdefault(key, []).append(s.get("ceiling", 0))
    median = {k: statistics.median(v) for k, v in values.items()}
    print(f"\nrun {run}, medians; the ratio is Ingot's median to the system's\n\n| case | system | tok/s | n | spread | ingot / it | of read limit |\n|---|---|---:|---:|---:|---:|---:|")
    lines = []
    for name, system in sorted(order, key=lambda k: [c for c, _ in order].index(k[0])):
        key, v = (name, system), values[name, system]
        own = median.get((name, "ingot"))
        spread, ceiling = (max(v) - min(v)) / median[key], statistics.median(ceilings[key])
        ratio = f"{own / median[key]:.2f}" if own and system != "ingot" else ""
        share = f"{median[key] / ceiling:.0%}" if ceiling else ""
        print(f"| {name} | {system} | {median[key]:.1f} | {len(v)} | {spread:.0%} | {ratio} | {share} |")
        last = next(s for s in reversed(samples) if s["case"] == name and s["system"] == system)
        lines.append({"run": run, "commit": last["commit"], "device": last["device"], "system": system, "case": name, "value": round(median[key], 3), "unit": "tok/s",
                      "n": len(v), "spread": round(spread, 4), "ceiling": round(ceiling, 2), **({"note": note} if note else {})})
    if records_path:
        path = Path(records_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in (path.read_text().splitlines() if path.exists() else []) if json.loads(line)["run"] != run]
        path.write_text("".join(f"{line}\n" for line in kept + [json.dumps(x) for x in lines]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=["1.1b", "demo", "avx2"], choices=SUITES, help="depth: decode behind long prompts")
    parser.add_argument("--formats", nargs="+", default=["int4", "int8", "bf16", "bf16 exact"])
    parser.add_argument("--systems", nargs="+", default=["ingot", "llama.cpp", "openvino", "ctranslate2"])
    parser.add_argument("--depths", nargs="+", type=int, default=[8192])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=0, help="start no further round after this time; 0: no limit")
    parser.add_argument("--wrap", default="", help="command put before each measured process, `taskset -c 0,1` say")
    parser.add_argument("--run", default=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), help="name of the run in the records")
    parser.add_argument("--note", default="", help="kept in the records: what else the machine did, say")
    parser.add_argument("--records", default=str(ROOT / "bench" / "records" / "compare.jsonl"), help="empty: print only")
    parser.add_argument("--prepare", action="store_true", help="install and make everything, measure nothing")
    o = parser.parse_args()
    wrap = shlex.split(o.wrap)
    origin = records.origin()
    rows, left_out = [], set()
    for suite in o.suite:
        for form, system, environment, script, model, variables in SUITES[suite]:
            if form not in o.formats or system not in o.systems:
                continue
            try:
                path = make_model(model)
                rows.append((suite, form, system, python_of(environment) if environment else None, script, path, variables))
            except RuntimeError as e:
                if system == "ingot":
                    print(f"compare: {e}", file=sys.stderr)
                    return 1
                if str(e) not in left_out:
                    print(f"{system} is left out of {suite}/{form}: {e}")
                left_out.add(str(e))
    if o.prepare:
        return 0
    store = WORK / "samples.jsonl"
    start = time.time()
    for i in range(o.rounds):
        if i and o.seconds and time.time() - start > o.seconds:
            print(f"stopped after {i} rounds: {o.seconds} s are over")
            break
        for suite, form, system, python, script, model, variables in rows:
            cases = cases_of(suite, o.depths)
            began = time.time()
            try:
                results = run_ingot(model, o.threads, cases, variables, wrap) if system == "ingot" else run_peer(python, script, model, o.threads, cases, wrap)
            except (RuntimeError, ValueError) as e:
                print(f"round {i + 1}: {suite}/{form} {system} failed: {e}", flush=True)
                continue
            figures = "".join(f"{r['value']:9.1f}" for r in results)
            print(f"round {i + 1}: {suite}/{form} {system:<12}{figures}   {time.time() - began:.0f} s", flush=True)
            with open(store, "a") as out:
                for r in results:
                    out.write(json.dumps({**origin, "run": o.run, "system": system, "case": case_name(suite, form, r), "value": r["value"],
                                          "ceiling": r.get("ceiling", 0)}) + "\n")
    samples = [s for s in map(json.loads, store.read_text().splitlines() if store.exists() else []) if s["run"] == o.run]
    report(samples, o.run, o.records, o.note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
