"""The demo model's greedy answers, id for id, against Transformers (tests/golden/demo/fixture.json).

Usage: demo_test.py INGOT DEMO_DIR WORK_DIR FIXTURE.json
Runs convert (float32) -> build -> run on the ten chats; exit code 1 names the first id that differs. Label `net`: the model comes out of
a package; `make demo` leaves it in DEMO_DIR. Without it the test says so and skips (exit code 77), or fails when CI is set.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

TIE = 2e-3  # logit gap below which float32 arithmetic may choose either of the two best


def main():
    ingot, work, fixture = sys.argv[1], Path(sys.argv[3]), json.loads(Path(sys.argv[4]).read_text())
    model = next(iter(sorted(Path(sys.argv[2]).glob("*.gguf"))), None)
    if model is None:
        print(f"no demo model in {sys.argv[2]}: `make demo` fetches it")
        return 1 if os.environ.get("CI") else 77
    work.mkdir(parents=True, exist_ok=True)
    run = lambda *args: subprocess.run([ingot, *map(str, args)], check=True, stdin=subprocess.DEVNULL)
    run("convert", "--model_dir", model, "--output_dir", work / "checkpoint", "--dtype", "float32")
    run("build", "--checkpoint_dir", work / "checkpoint", "--output_dir", work / "engine", "--no_timing")
    chats = fixture["chats"]
    (work / "prompts.csv").write_text("\n".join(",".join(map(str, c["prompt_ids"])) for c in chats) + "\n")
    run("run", "--engine_dir", work / "engine", "--max_output_len", 64, "--input_file", work / "prompts.csv", "--output_csv", work / "out.csv",
        "--end_id", fixture["stop_id"], "--json")
    lines = (work / "out.csv").read_text().splitlines()
    failed = 0
    for index, (chat, line) in enumerate(zip(chats, lines, strict=True)):
        got = [int(x) for x in line.split(",")] if line else []
        want = [i for i in chat["ids"] if i != fixture["stop_id"]]  # the output ends before the stop id
        for step, (g, w) in enumerate(zip(got + [-1] * len(want), want)):
            if g != w:
                gap = chat["gaps"][step]
                tie = gap < TIE
                print(f"chat {index}, token {step}: found {g}, want {w} (gap between the two best logits {gap}){' - a tie' if tie else ''}")
                failed += not tie
                break
    print(f"{len(chats) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
