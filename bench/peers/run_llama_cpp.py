"""llama.cpp through the low-level interface of llama-cpp-python: run_llama_cpp.py MODEL.gguf THREADS CASES_JSON -> one JSON line a case.

Batched decode puts one token of each sequence into one llama_decode call, as llama-batched-bench does; nothing is sampled.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

import llama_cpp


def context(model, threads, tokens, sequences):
    p = llama_cpp.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = tokens, 2048, 512, sequences
    p.n_threads = p.n_threads_batch = threads
    p.no_perf = True
    c = llama_cpp.llama_init_from_model(model, p)
    if not c:
        sys.exit(f"llama.cpp made no context of {tokens} tokens and {sequences} sequences")
    return c


def decode(ctx, rows):
    """rows: (token, position, sequence, wants logits)."""
    batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, logits) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, logits
        batch.seq_id[i][0] = sequence
    code = llama_cpp.llama_decode(ctx, batch)
    llama_cpp.llama_synchronize(ctx)
    llama_cpp.llama_batch_free(batch)
    if code != 0:
        sys.exit(f"llama_decode of {len(rows)} tokens returned {code}")


def prompt(length, salt):
    return [300 + (i * 7919 + salt * 104729) % 20000 for i in range(length)]


def prefill(ctx, length, sequence):
    ids = prompt(length, sequence + 1)
    for start in range(0, length, 512):
        part = ids[start:start + 512]
        decode(ctx, [(t, start + i, sequence, start + i == length - 1) for i, t in enumerate(part)])


def restore(ctx, state, length):
    """A long context is computed once and kept in a file: its bytes are what counts when decoding at that depth."""
    path = str(state).encode()
    tokens, count = (llama_cpp.llama_token * length)(), ctypes.c_size_t(0)
    if state.exists() and llama_cpp.llama_state_seq_load_file(ctx, path, 0, tokens, length, ctypes.byref(count)) > 0:
        return
    prefill(ctx, length, 0)
    tokens[:] = prompt(length, 1)
    llama_cpp.llama_state_seq_save_file(ctx, path, 0, tokens, length)


def main():
    path, threads, cases = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    llama_cpp.llama_log_set(LOG, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    warm = context(model, threads, 256, 1)
    prefill(warm, 16, 0)
    llama_cpp.llama_free(warm)
    for case in cases:
        batch, length, output = case["batch"], case["input"], case["output"]
        per_sequence = (length + output + 255) // 256 * 256
        ctx = context(model, threads, per_sequence * batch, batch)
        if case["phase"] == "prefill":
            start = time.perf_counter()
            prefill(ctx, length, 0)
            value = length / (time.perf_counter() - start)
        else:
            for s in range(batch):
                if length >= 4096:
                    restore(ctx, Path(f"{path}.{length}.state"), length)
                else:
                    prefill(ctx, length, s)
            start = time.perf_counter()
            for i in range(output):
                decode(ctx, [(300 + (i * 31 + s * 17) % 20000, length + i, s, True) for s in range(batch)])
            value = batch * output / (time.perf_counter() - start)
        print(json.dumps({**case, "value": value}), flush=True)
        llama_cpp.llama_free(ctx)


@llama_cpp.llama_log_callback
def LOG(level, text, data):
    if level >= 4:  # errors
        sys.stderr.write(text.decode(errors="replace"))


if __name__ == "__main__":
    main()
