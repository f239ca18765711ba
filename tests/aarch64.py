"""Checks that the CPU device and what it stands on compile for aarch64: aarch64.py ROOT

Only syntax and types, with the cross compiler of Debian's g++-aarch64-linux-gnu; the kernels are those of plain C++ (INGOT_SIMD=scalar),
where a NEON or SVE set would stand beside. Exit code 77 where that compiler is not installed: skipped.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMPILER = "aarch64-linux-gnu-g++"


def main():
    root = Path(sys.argv[1])
    if not shutil.which(COMPILER):
        print(f"aarch64: {COMPILER} is not installed (apt-get install g++-aarch64-linux-gnu); skipped")
        return 77
    modules = ["base", "tensor", "op", "device", "cpu"]
    sources = [p for m in modules for p in sorted((root / "src" / m).rglob("*.cc")) if not p.name.endswith("_test.cc")]
    with tempfile.TemporaryDirectory() as headers:
        os.symlink("/usr/include/nlohmann", Path(headers) / "nlohmann")  # /usr/include itself holds headers of this machine
        flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-Wno-psabi", f"-I{root / 'src'}", f"-I{root / 'include'}",
                 "-isystem", headers]

        def check(path):
            simd = ["-DINGOT_SIMD=scalar"] if path.parent.name == "simd" else []
            return path, subprocess.run([COMPILER, *flags, *simd, path], capture_output=True, text=True)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            failed = [(p, r.stderr) for p, r in pool.map(check, sources) if r.returncode != 0]
    for path, text in failed:
        print(f"{path.relative_to(root)} does not compile for aarch64:\n{text[:2000]}")
    print(f"aarch64: {len(sources)} sources, {len(failed)} failed")
    return 1 if failed or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
