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
    (root / "empty_dir").mkdir()


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
