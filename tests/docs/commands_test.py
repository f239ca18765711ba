"""The commands in README.md and docs: those of README's code blocks run, in order, on a tiny model; of all others every flag must be known.

Usage: commands_test.py INGOT SOURCE_ROOT WORK_DIR
"""

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def tiny_model(folder):
    """A Llama of two layers with random bf16 weights and a byte-level tokenizer without merges."""
    folder.mkdir(parents=True)
    e, f, layers, vocab, kv = 64, 128, 2, 300, 32
    shapes = {"model.embed_tokens.weight": [vocab, e], "model.norm.weight": [e], "lm_head.weight": [vocab, e]}
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes |= {p + "input_layernorm.weight": [e], p + "post_attention_layernorm.weight": [e], p + "self_attn.q_proj.weight": [e, e], p + "self_attn.k_proj.weight": [kv, e],
                   p + "self_attn.v_proj.weight": [kv, e], p + "self_attn.o_proj.weight": [e, e], p + "mlp.gate_proj.weight": [f, e], p + "mlp.up_proj.weight": [f, e],
                   p + "mlp.down_proj.weight": [e, f]}
    header, body, r = {}, b"", random.Random(1)
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        if len(shape) == 1:
            data = b"\x80\x3f" * count
        else:  # small values of both signs
            data = b"".join((0x3c80 | r.getrandbits(7) | r.getrandbits(1) << 15).to_bytes(2, "little") for _ in range(count))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": e, "intermediate_size": f,
                                                    "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": vocab, "rms_norm_eps": 1e-5,
                                                    "max_position_embeddings": 2048, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}))
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    tokens = ["<unk>", "<s>", "</s>", *(chr(b) if b in plain else chr(256 + others.index(b)) for b in range(256))]
    tokens += [f"tok{i}" for i in range(vocab - len(tokens))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, t in enumerate(tokens[:3])]
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None, "pre_tokenizer": level,
                                                       "post_processor": None, "decoder": level, "model": {"type": "BPE", "dropout": None, "unk_token": None,
                                                       "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                                                       "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template":
                                                              "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"}))


def commands(text):
    """(line, from a code block): the `ingot` commands of a page, without comments and prompts."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        block = re.match(r"(?:    |\$ )(?:build/release/bin/)?(ingot\s.*)", line)
        if block:
            found.append((re.split(r"\s+#\s", block[1])[0].strip(), True))
        else:
            found += [(span, False) for span in re.findall(r"`(?:build/release/bin/)?(ingot [^`]*)`", line)]
    return found


def known_flags(ingot, words, cache={}):
    """What --help of a command names; two words make a command where the first alone does not list flags."""
    for n in (2, 1):
        key = tuple(words[:n])
        if len(key) < n or any(w.startswith("-") for w in key):
            continue
        if key not in cache:
            done = subprocess.run([ingot, *key, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
            cache[key] = set(re.findall(r"--([a-z0-9][a-z0-9_-]*)", done.stdout.replace("_", "-"))) | set(re.findall(r"\b([a-z0-9]+(?:-[a-z0-9]+)+)\b", done.stdout.replace("_", "-"))) if done.returncode == 0 else None
        if cache[key]:
            return cache[key]
    return None


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(ingot, line, places, work):
    """Runs a command with its placeholders filled in; an error text or None."""
    words = [places.get(w, w) for w in shlex.split(line)[1:]]
    environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache"), "HOME": str(work)}
    if words[0] == "serve":
        port = free_port()
        server = subprocess.Popen([ingot, *words, "--http-address", "127.0.0.1", "--http-port", str(port), "--allow-grpc=false", "--allow-metrics=false",
                                   "--max-tokens-in-paged-kv-cache", "4096"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, cwd=work)
        try:
            for _ in range(300):
                if server.poll() is not None:
                    return server.stderr.read()[-1500:]
                try:
                    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/ensemble/generate", b'{"text_input": "hi", "max_tokens": 4, "bad_words": "", "stop_words": ""}')
                    answer = json.load(urllib.request.urlopen(request, timeout=20))
                    return None if "text_output" in answer else f"answered {answer}"
                except OSError:
                    time.sleep(0.05)
            return "was not ready"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)
    if words[:2] == ["bench", "offline"]:
        words += ["--runs", "1", "--output-len", "4", "--prefill-len", "16", "--max-tokens-in-paged-kv-cache", "4096"]
    elif words[0] == "bench":
        words += ["--help"]  # compares with peers that have to be installed
    elif words[0] == "build":
        words += ["--no_timing"]
    done = subprocess.run([ingot, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, cwd=work, timeout=120)
    return None if done.returncode == 0 else (done.stderr or done.stdout)[-1500:]


def main():
    ingot, root, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    shutil.rmtree(work, ignore_errors=True)
    tiny_model(work / "model")
    places = {"MODEL": str(work / "model"), "CHECKPOINT": str(work / "checkpoint"), "ENGINE": str(work / "engine"), "PATH": str(work / "engine"), "DIR": str(work / "folder")}
    ran = checked = failed = 0
    for page in [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md")), *sorted((root / "src").glob("*/README.md"))]:
        for line, block in commands(page.read_text()):
            try:
                words = shlex.split(line)[1:]
            except ValueError:
                words = line.split()[1:]
            if not words:
                continue
            flags = {w.split("=")[0].lstrip("-").replace("_", "-") for w in words if w.startswith("--")}
            if flags:
                known = known_flags(ingot, words)
                unknown = sorted(flags - known - {"help"}) if known is not None else sorted(flags)
                checked += 1
                if unknown:
                    failed += 1
                    print(f"{page.relative_to(root)}: `{line}`: --help does not know --{', --'.join(unknown)}")
                    continue
            if block and page.name == "README.md" and page.parent == root and all(w in places or not w.isupper() for w in words):
                ran += 1
                error = run(ingot, line, places, work)
                if error is not None:
                    failed += 1
                    print(f"README.md: `{line}` failed: {error}")
    if ran < 5 or checked < 3:
        failed += 1
        print(f"only {ran} commands ran and {checked} were checked: the pages are not read as they are written")
    print(f"{ran} commands ran, the flags of {checked} were checked, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
