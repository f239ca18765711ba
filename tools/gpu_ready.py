#!/usr/bin/env python3
"""The time until a real engine serves on a GPU: `tools/gpu_ready.py INGOT PLUGIN [--records FILE]`, a part of tools/gpu.sh.

Random weights of two true shapes (Llama-3-8B, Yuan-2B as a Llama) are written as Hugging Face folders, built into engines (bf16, and fp8 of the
first), then each engine is served three times from a warm page cache: seconds from the start of the process to /v2/health/ready and to one
token. Needs PyTorch and safetensors, and 45 GB in --folder. Exit code 1 where a server did not come up.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

SHAPES = {
    "llama3-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "yuan2-2b-llama": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 135040},
}
ENGINES = {"llama3-8b/bf16": [], "llama3-8b/fp8": ["--use_weight_only", "--weight_only_precision", "fp8"], "yuan2-2b-llama/bf16": []}
PORT = 18300
ROUNDS = 3


def write_checkpoint(folder, shape):
    import torch
    from safetensors.torch import save_file

    hidden, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    where = "cuda" if torch.cuda.is_available() else "cpu"

    def normal(*dims):
        return (torch.randn(*dims, device=where, dtype=torch.bfloat16) * 0.02).cpu()

    def ones():
        return torch.ones(hidden, dtype=torch.bfloat16)

    parts = [{"model.embed_tokens.weight": (shape["vocab_size"], hidden), "lm_head.weight": (shape["vocab_size"], hidden), "model.norm.weight": (hidden,)}]
    for layer in range(layers):
        p = f"model.layers.{layer}."
        parts.append({p + "self_attn.q_proj.weight": (hidden, hidden), p + "self_attn.k_proj.weight": (kv, hidden), p + "self_attn.v_proj.weight": (kv, hidden),
                      p + "self_attn.o_proj.weight": (hidden, hidden), p + "mlp.gate_proj.weight": (inner, hidden), p + "mlp.up_proj.weight": (inner, hidden),
                      p + "mlp.down_proj.weight": (hidden, inner), p + "input_layernorm.weight": (hidden,), p + "post_attention_layernorm.weight": (hidden,)})
    names = {}
    folder.mkdir(parents=True)
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        save_file({name: normal(*dims) if len(dims) > 1 else ones() for name, dims in part.items()}, folder / file)
        names.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                                                    "max_position_embeddings": 8192, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, **shape}))


def serve(program, plugin, engine):
    """Seconds to readiness and to one token of one server."""
    command = [program, "serve", engine, "--device", plugin, "--http-address", "127.0.0.1", "--http-port", PORT, "--grpc-port", PORT + 1, "--metrics-port", PORT + 2]
    url, start = f"http://127.0.0.1:{PORT}", time.perf_counter()
    server = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(url + "/v2/health/ready", timeout=5):
                    break
            except OSError:
                time.sleep(0.005)
            if server.poll() is not None or time.perf_counter() - start > 60:
                raise RuntimeError(f"the server of {engine} did not become ready")
        ready = time.perf_counter() - start
        body = json.dumps({"input_ids": list(range(5, 21)), "input_lengths": 16, "request_output_len": 1}).encode()
        with urllib.request.urlopen(urllib.request.Request(url + "/v2/models/tensorrt_llm/generate", body), timeout=60) as answer:
            if len(json.load(answer)["output_ids"]) != 17:
                raise RuntimeError(f"the server of {engine} gave no token")
        return ready, time.perf_counter() - start
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("plugin")
    parser.add_argument("--records", help="file that the figures are appended to")
    parser.add_argument("--folder", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None, help="where the models lie meanwhile; memory is the warmest page cache")
    o = parser.parse_args()
    version = subprocess.run([o.program, "--version"], capture_output=True, text=True, check=True).stdout
    commit = version.split()[-1]
    card = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip().splitlines()
    origin = {"run": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit, "device": card[0] if card else "GPU"}
    lines = []
    with tempfile.TemporaryDirectory(prefix="ingot-ready-", dir=o.folder) as folder:
        folder = Path(folder)
        for name, flags in ENGINES.items():
            shape, engine = name.split("/")[0], folder / name.replace("/", "-")
            if not (folder / shape).is_dir():
                write_checkpoint(folder / shape, SHAPES[shape])
            subprocess.run([o.program, "build", "--checkpoint-dir", folder / shape, "--output-dir", engine, "--device", o.plugin, *flags], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times = [serve(o.program, o.plugin, engine) for _ in range(ROUNDS)]
            size = (engine / "rank0.engine").stat().st_size / 1e9
            for what, values in (("ready", [t[0] for t in times]), ("first token", [t[1] for t in times])):
                median = statistics.median(values)
                print(f"{name}: {what} of an engine of {size:.1f} GB  {median:.2f} s")
                lines.append({**origin, "system": "ingot", "case": f"{name}/{what}", "value": round(median, 3), "unit": "s", "n": ROUNDS, "spread": round((max(values) - min(values)) / median, 4), "ceiling": 0})
    if o.records:
        with open(o.records, "a") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"gpu_ready: {error}")
