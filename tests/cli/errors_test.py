"""Wrong command lines and files, each with its exact exit code and message (tests/cli/errors.txt).

Usage: errors_test.py INGOT TABLE [--update]
A row is `$ command line`, then `# exit code`, then the last line that it prints (its beginning, where the row ends in "..."). {dir} is
a scratch folder with the files below.
"""

import json
import os
import shlex
import struct
import subprocess
import sys
import tempfile
from pathlib import Path


def llama(root, name, config, types={}, fill=0.01):
    """A Llama of one layer; every weight is `fill`."""
    shapes = {"model.embed_tokens.weight": [32, 16], "lm_head.weight": [32, 16], "model.norm.weight": [16]}
    p = "model.layers.0."
    shapes |= {p + f"self_attn.{x}_proj.weight": [16, 16] for x in "qkvo"} | {p + f"mlp.{x}_proj.weight": [16, 16] for x in ("gate", "up", "down")}
    shapes |= {p + "input_layernorm.weight": [16], p + "post_attention_layernorm.weight": [16]}
    header, data = {}, b""
    for tensor, shape in shapes.items():
        values = struct.pack("<f", fill) * (shape[0] * (shape + [1])[1])
        header[tensor] = {"dtype": types.get(tensor, "F32"), "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    (root / name).mkdir()
    (root / name / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (root / name / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
                                                         "vocab_size": 32, "torch_dtype": "float32", "hidden_act": "silu", "max_position_embeddings": 64, **config}))


def make_files(root):
    """Small wrong files, one reason each."""
    def write(name, data):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    write("empty.engine", b"")
    write("text.engine", "not an engine\n" * 100)
    write("trt.engine", b"ftrt" + b"\0" * 200)
    write("empty.gguf", b"")
    write("short.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1, 0))
    write("huge.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
    write("bad.safetensors", struct.pack("<Q", 1 << 50) + b"{}")
    write("model_without_config/model.safetensors", struct.pack("<Q", 2) + b"{}")
    write("unknown_arch/config.json", json.dumps({"architectures": ["MadeUpForCausalLM"], "model_type": "madeup"}))
    write("unknown_arch/model.safetensors", struct.pack("<Q", 2) + b"{}")
    write("bad_json/config.json", '{"architectures": ["LlamaForCausalLM",}')
    write("bad_json/model.safetensors", struct.pack("<Q", 2) + b"{}")
    write("ids.csv", "1,2,three\n")
    write("lfs/config.json", "{}")
    write("lfs/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123\n")
    llama(root, "llama", {})
    llama(root, "llama_mish", {"hidden_act": "mish"})
    llama(root, "llama_f8", {"torch_dtype": "float8"})
    llama(root, "llama_integers", {}, {"model.norm.weight": "I32"})
    llama(root, "llama_huge", {}, fill=1e20)
    (root / "empty_dir").mkdir()
    for name in ("pipe.gguf", "pipe.engine", "piped/config.json", "piped_weights/model.safetensors"):
        (root / name).parent.mkdir(exist_ok=True)
        os.mkfifo(root / name)
    write("piped/model.safetensors", struct.pack("<Q", 2) + b"{}")
    (root / "piped_weights/config.json").write_bytes((root / "llama/config.json").read_bytes())


def run(ingot, command, root):
    words = [w.replace("{dir}", str(root)) for w in shlex.split(command)]
    done = subprocess.run([ingot, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
                          env={k: v for k, v in os.environ.items() if not k.startswith("INGOT_")})
    lines = [line.strip() for line in (done.stdout + done.stderr).strip().splitlines() if line.strip()]
    return done.returncode, (lines[-1] if lines else "").replace(str(root), "{dir}")


def main():
    ingot, table = sys.argv[1], Path(sys.argv[2])
    update = "--update" in sys.argv
    rows, out, failed = table.read_text().split("\n$ "), [], 0
    rows[0] = rows[0].removeprefix("$ ")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_files(root)
        for row in rows:
            command, _, rest = row.strip().partition("\n")
            want_code, _, want = rest.partition("\n")
            code, text = run(ingot, command, root)
            if want.strip().endswith("...") and text.startswith(want.strip()[:-3]):
                text = want.strip()
            out.append(f"$ {command}\n# {code}\n{text}\n")
            if not update and (want_code.strip() != f"# {code}" or want.strip() != text):
                failed += 1
                print(f"ingot {command}\n  found {code}: {text}\n  want  {want_code.strip().removeprefix('# ')}: {want.strip()}")
    if update:
        table.write_text("\n".join(out))
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
