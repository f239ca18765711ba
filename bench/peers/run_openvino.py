"""OpenVINO GenAI: run_openvino.py MODEL THREADS CASES_JSON -> one JSON line a case. MODEL is an exported folder or a GGUF file.

A generate() of n tokens less one of a single token is the decoding of n - 1; sequences of a batch go through one call. Behind a long prompt,
which takes a minute to read, the pipeline's own time per output token counts instead. Where the machine has AMX, prompts are fastest in the default
precision (bf16) and decoding is in f32; each case gets its better one.
"""

import json
import sys
import time

import numpy
import openvino
import openvino_genai


def main():
    path, threads, cases = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    amx = "amx_tile" in open("/proc/cpuinfo").read()
    pipe = None
    random = numpy.random.default_rng(0)

    def generate(batch, length, output):
        ids = random.integers(300, 20000, (batch, length), dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids)))
        config = openvino_genai.GenerationConfig(max_new_tokens=output, min_new_tokens=output, ignore_eos=True, do_sample=False)
        start = time.perf_counter()
        result = pipe.generate(inputs, config)
        seconds = time.perf_counter() - start
        counts = {len(t) for t in result.tokens}
        if counts != {output}:
            sys.exit(f"OpenVINO generated {counts} tokens, want {output}")
        return seconds, result.perf_metrics.get_tpot().mean * 1e-3

    current = None
    for case in cases:
        options = {"INFERENCE_PRECISION_HINT": "f32"} if amx and case["phase"] == "decode" else {}
        if options != current:
            pipe, current = None, options
            pipe = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads, **options)
            generate(1, 16, 4)
        batch, length, output = case["batch"], case["input"], case["output"]
        if length >= 4096:
            value = batch / generate(batch, length, output + 1)[1]
        else:
            first, _ = generate(batch, length, 1)
            value = length / first if case["phase"] == "prefill" else batch * output / (generate(batch, length, output + 1)[0] - first)
        print(json.dumps({**case, "value": value}), flush=True)


if __name__ == "__main__":
    main()
