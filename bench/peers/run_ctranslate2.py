"""CTranslate2: run_ctranslate2.py MODEL_DIR THREADS CASES_JSON [COMPUTE_TYPE] -> one JSON line a case; decode timed as in run_openvino.py."""

import json
import sys
import time
from pathlib import Path

import ctranslate2


def main():
    path, threads, cases = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    model = ctranslate2.Generator(path, device="cpu", compute_type=sys.argv[4] if len(sys.argv) > 4 else "int8", inter_threads=1, intra_threads=threads)
    vocabulary = json.loads(Path(path, "vocabulary.json").read_text())

    def generate(batch, length, output):
        prompts = [[vocabulary[300 + (i * 7919 + b * 104729) % 20000] for i in range(length)] for b in range(batch)]
        start = time.perf_counter()
        results = model.generate_batch(prompts, max_length=output, min_length=output, sampling_topk=1, include_prompt_in_result=False, end_token=[], max_batch_size=0)
        seconds = time.perf_counter() - start
        counts = {len(r.sequences[0]) for r in results}
        if counts != {output}:
            sys.exit(f"CTranslate2 generated {counts} tokens, want {output}")
        return seconds

    generate(1, 16, 4)
    for case in cases:
        batch, length, output = case["batch"], case["input"], case["output"]
        first = generate(batch, length, 1)
        value = length / first if case["phase"] == "prefill" else batch * output / (generate(batch, length, output + 1) - first)
        print(json.dumps({**case, "value": value}), flush=True)


if __name__ == "__main__":
    main()
