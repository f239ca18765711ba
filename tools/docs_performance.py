#!/usr/bin/env python3
"""Tables of README.md and docs/performance.md from bench/records/*.jsonl: docs_performance.py [ROOT] [--update].

A block `<!-- records: NAME -->` ... `<!-- end -->` holds what the function NAME prints of the newest run that has such cases. Without
--update the program only compares, and fails where a block differs.
"""

import json
import re
import sys
from pathlib import Path

SYSTEMS = {"ingot": "Ingot", "llama.cpp": "llama.cpp", "openvino": "OpenVINO GenAI", "ctranslate2": "CTranslate2"}
PHASES = {"prefill512": "prefill, 512 tokens", "decode": "decode"}


def read(root):
    """file stem -> records in file order."""
    return {p.stem: [json.loads(line) for line in p.read_text().splitlines() if line.strip()] for p in sorted((root / "bench" / "records").glob("*.jsonl"))}


def newest(records, prefix):
    """The records of the last run that has a case of this prefix."""
    runs = [r["run"] for r in records if r["case"].startswith(prefix)]
    return [r for r in records if runs and r["run"] == max(runs) and r["case"].startswith(prefix)]


def machines(records, prefix):
    """newest() of each machine that has such cases, the machine measured last first."""
    own = {r["device"]: [] for r in records if r["case"].startswith(prefix)}
    for r in records:
        own.get(r["device"], []).append(r)
    return sorted((newest(rs, prefix) for rs in own.values()), key=lambda rs: rs[0]["run"], reverse=True)


def number(x):
    return f"{x:,.0f}" if x >= 200 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def table(head, rows):
    align = ["---" if i == 0 else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(r) + " |" for r in [head, align, *rows]) + "\n"


def source(records, command):
    first = records[0]
    n = sorted({r["n"] for r in records})
    return f"\n{first['device']}, commit {first['commit']}, {first['run']}; medians of {n[0] if len(n) == 1 else f'{n[0]} to {n[-1]}'}; `{command}`{'; ' + first['note'] if first.get('note') else ''}\n"


def compare(all_records, prefix, command):
    return "\n".join(comparison(records, command) for records in machines(all_records.get("compare", []), prefix)) or "not measured yet\n"


def comparison(records, command):
    cases = list(dict.fromkeys(r["case"] for r in records))
    systems = [s for s in SYSTEMS if any(r["system"] == s for r in records)]
    by = {(r["case"], r["system"]): r for r in records}
    rows = []
    for c in cases:
        _, form, phase, batch = c.split("/")
        own = by.get((c, "ingot"))
        peers = [by[c, s]["value"] for s in systems if s != "ingot" and (c, s) in by]
        name = PHASES.get(phase, phase.replace("decode@", "decode behind ") + " tokens")
        cells = [f"{form}, {name}{f', batch {batch}' if phase != 'prefill512' else ''}"]
        cells += [number(by[c, s]["value"]) if (c, s) in by else "" for s in systems]
        cells.append(f"{own['value'] / max(peers):.2f}" if own and peers else "")
        cells.append(f"{own['value'] / own['ceiling']:.0%}" if own and own["ceiling"] and batch == "1" else "")
        rows.append(cells)
    return table(["tok/s", *(SYSTEMS[s] for s in systems), "Ingot / best peer", "of the read limit"], rows) + source(records, command)


def one_b(r):
    return compare({"compare": [x for x in r.get("compare", []) if "@" not in x["case"]]}, "1.1b/", "ingot bench compare --suite 1.1b")


def demo(r):
    return compare(r, "demo/", "ingot bench compare --suite demo")


def avx2(r):
    return compare(r, "1.1b-avx2/", "ingot bench compare --suite avx2")


def depth(r):
    return compare({"compare": [x for x in r.get("compare", []) if "@" in x["case"]]}, "1.1b/", "ingot bench compare --suite depth")


def load(all_records):
    records = newest(all_records.get("load", []), "load/")
    if not records:
        return "not measured yet\n"
    by = {(r["system"], *r["case"].rsplit("/", 2)[1:]): r["value"] for r in records if r["case"].count("/") == 4}
    rows = []
    for rate in dict.fromkeys(k[1] for k in by):
        for s in SYSTEMS:
            if (s, rate, "tokens_per_second") in by:
                rows.append([f"{SYSTEMS[s]}, {rate}", *(number(by[s, rate, f]) for f in ("tokens_per_second", "gap_p95", "first_p95"))])
    within = {r["system"]: r for r in records if r["case"].endswith("within the peers' gap")}
    text = table(["system, arrivals", "tok/s", "gap between tokens, 95 %, ms", "first token, 95 %, ms"], rows)
    if within:
        text += f"\nWithin {next(iter(within.values()))['ceiling']:.0f} ms between tokens (95 %): " + ", ".join(f"{SYSTEMS[s]} {number(x['value'])} tok/s" for s, x in within.items()) + ".\n"
    return text + source(records, "ingot bench load")


def start(all_records):
    records = newest(all_records.get("start", []), "")
    if not records:
        return "not measured yet\n"
    rows = [[r["case"], f"{number(r['value'])} {r['unit']}", f"{number(r['ceiling'])} {r['unit']}" if r["ceiling"] else ""] for r in records]
    return table(["case", "median", "goal, at most"], rows) + source(records, "ingot bench start")


def steps(all_records):
    records = newest(all_records.get("steps", []), "")
    if not records:
        return "not measured yet\n"
    rows = [[r["case"], f"{number(r['value'])} {r['unit']}", f"{number(r['ceiling'])} {r['unit']}" if r["ceiling"] else ""] for r in records]
    return table(["case", "median", "goal, at most"], rows) + source(records, "tools/steps.py")


def quality(all_records):
    records = all_records.get("quality", [])
    if not records:
        return "not measured yet\n"
    latest = {r["case"]: r for r in records}  # each engine is a run of its own
    rows = []
    for name in dict.fromkeys(c.rsplit("/", 2)[0] for c in latest):
        of = lambda what: latest[f"{name}/quality/{what}"]
        to = next(t for t in ("int8", "bf16") if f"{name}/quality/perplexity, {t} activations" in latest)
        rows.append([name.replace("/", ", "), to, f"{of('perplexity, f32 activations')['value']:.3f}", f"{of(f'perplexity, {to} activations')['value']:.3f}", f"{of('rise')['value']:+.2f} %",
                     f"{of('mean KL')['value']:.5f}", f"{of('same greedy token')['value']:.1f} %"])
    runs = {r["device"]: f"{r['device']}, {r['run']}" for r in latest.values()}
    return table(["weights", "activations rounded to", "f32 activations", "rounded activations", "rise", "mean KL, nats", "same greedy token"], rows) + f"\n{'; '.join(runs.values())}; {records[-1]['n']} tokens; `ingot bench quality`\n"


def soak(all_records):
    records = newest(all_records.get("soak", []), "")
    if not records:
        return "not measured yet\n"
    return table(["case", "value"], [[r["case"], f"{r['value']:g} {r['unit']}"] for r in records]) + f"\n{records[0]['device']}, commit {records[0]['commit']}, {records[0]['run']}; `make soak`\n"


# Cases of the GPU's tables: what a row is called, and the goals of the engines that have one on one H200.
GPU_CASES = {
    "decode 16+300/1": ("batch 1", {"llama3-8b/bf16": 250, "llama3-8b/fp8": 430, "llama3-8b/W4A16_AWQ": 720, "yuan2-2b-llama/bf16": 880, "yuan2-2b/bf16": 750}),
    "decode 16+300/4": ("batch 4", {"yuan2-2b/bf16": 477}),
    "decode 16+300/8": ("batch 8", {"llama3-8b/bf16": 1900, "llama3-8b/fp8": 3200, "yuan2-2b-llama/bf16": 6000, "yuan2-2b/bf16": 880}),
    "decode 16+300/16": ("batch 16", {"yuan2-2b/bf16": 1888}),
    "decode 16+300/32": ("batch 32", {"yuan2-2b/bf16": 3326}),
    "decode 16+300/64": ("batch 64", {"llama3-8b/bf16": 12000, "llama3-8b/fp8": 18000, "yuan2-2b-llama/bf16": 28000, "yuan2-2b/bf16": 6724}),
    "decode 16+300/256": ("batch 256", {"llama3-8b/bf16": 26000, "llama3-8b/fp8": 36000, "yuan2-2b-llama/bf16": 45000}),
    "prefill 2048/1": ("prompt of 2,048", {"llama3-8b/bf16": 44522, "llama3-8b/fp8": 73143, "yuan2-2b-llama/bf16": 136533}),
    "prefill 2048/4": ("4 prompts of 2,048", {"llama3-8b/bf16": 46000, "llama3-8b/fp8": 78000, "yuan2-2b-llama/bf16": 165000}),
    "burst 128+128/1024": ("1,024 requests at once, 128 in and out", {"llama3-8b/bf16": 20000, "llama3-8b/fp8": 28000, "yuan2-2b-llama/bf16": 40000}),
    "burst 1024+128/512": ("512 requests at once, 1,024 in, 128 out", {"llama3-8b/bf16": 4500, "llama3-8b/fp8": 6600, "yuan2-2b-llama/bf16": 10000}),
    "ready": ("real engine: ready to serve, s", {"llama3-8b/bf16": 4, "llama3-8b/fp8": 4, "yuan2-2b-llama/bf16": 2}),
    "idle between decode steps/1": ("idle between steps, %", dict.fromkeys(("llama3-8b/bf16", "llama3-8b/fp8", "llama3-8b/W4A16_AWQ", "llama3-8b/int8", "yuan2-2b-llama/bf16", "yuan2-2b/bf16"), 1)),
}
GPU_ENGINES = {"llama3-8b/bf16": "8B bf16", "llama3-8b/fp8": "8B fp8", "llama3-8b/W4A16_AWQ": "8B int4", "llama3-8b/int8": "8B int8", "yuan2-2b-llama/bf16": "Yuan-2B as Llama", "yuan2-2b/bf16": "Yuan-2B"}


def cuda(all_records):
    records = all_records.get("cuda", [])
    last = {}
    for r in records:  # a case's newest figure
        if r["case"] not in last or r["run"] >= last[r["case"]]["run"]:
            last[r["case"]] = r
    rows = []
    for case, (name, goals) in GPU_CASES.items():
        cells = []
        for engine in GPU_ENGINES:
            r = last.get(f"{engine}/{case}")
            if r is None:
                cells.append("")
                continue
            goal = goals.get(engine)
            held = goal is not None and (r["value"] <= goal if r["unit"] in ("%", "s") else r["value"] >= goal)
            value = f"**{number(r['value'])}**" if held else number(r["value"])
            cells.append(value if goal is None else f"{value} of {goal:,}")
        if any(cells):
            rows.append([name, *cells])
    if not rows:
        return "not measured yet\n"
    shown = [r for c, r in last.items() if any(c == f"{e}/{k}" for e in GPU_ENGINES for k in GPU_CASES)]
    limits = "; ".join(f"{r['case'].removeprefix('ceiling/')} {number(r['value'])} {r['unit']}" for c, r in last.items() if c.startswith("ceiling/"))
    commits = ", ".join(sorted({r["commit"] for r in shown}))
    return table(["tok/s", *GPU_ENGINES.values()], rows) + f"\n{shown[0]['device']}, commit {commits}, {max(r['run'] for r in shown)}; `tools/gpu.sh`. Limits measured by PyTorch: {limits}.\n"


def readme(r):
    text = ""
    for prefix, name in (("1.1b/", "1.1B Llama shape"), ("demo/", "demo model (SmolLM2-135M)")):
        records = newest([x for x in r.get("compare", []) if "@" not in x["case"] and not x.get("note")], prefix)  # nothing else ran
        by = {(x["case"], x["system"]): x["value"] for x in records}
        rows = []
        for c in dict.fromkeys(x["case"] for x in records):
            peers = {s: v for (k, s), v in by.items() if k == c and s != "ingot"}
            if (c, "ingot") not in by or not peers:
                continue
            best = max(peers, key=peers.get)
            _, form, phase, batch = c.split("/")
            rows.append([f"{form}, {PHASES[phase]}{f', batch {batch}' if phase == 'decode' else ''}", number(by[c, "ingot"]), f"{number(peers[best])} ({SYSTEMS[best]})", f"{by[c, 'ingot'] / peers[best]:.2f}"])
        if rows:
            text += table([f"{name}, tok/s", "Ingot", "best peer", "ratio"], rows) + source(records, "ingot bench compare") + "\n"
    return text.rstrip("\n") + "\n" if text else "not measured yet\n"


BLOCKS = {"1.1b": one_b, "demo": demo, "avx2": avx2, "depth": depth, "load": load, "start": start, "steps": steps, "soak": soak, "quality": quality, "cuda": cuda, "readme": readme}


def fill(text, records, where):
    def block(match):
        if match[1] not in BLOCKS:
            sys.exit(f"{where}: there is no block '{match[1]}'; known: {', '.join(BLOCKS)}")
        return f"<!-- records: {match[1]} -->\n{BLOCKS[match[1]](records)}<!-- end -->"

    return re.sub(r"<!-- records: (\S+) -->\n.*?<!-- end -->", block, text, flags=re.S)


def main():
    arguments = [a for a in sys.argv[1:] if a != "--update"]
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    records, differing = read(root), 0
    for name in ("README.md", "docs/performance.md", "docs/cuda.md"):
        path = root / name
        text = path.read_text()
        filled = fill(text, records, name)
        if filled == text:
            continue
        if "--update" in sys.argv:
            path.write_text(filled)
        else:
            differing += 1
            print(f"{name} differs from bench/records: run tools/docs_performance.py --update and read the change")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
