"""Checks that no function compiled with wide instructions can be chosen by the linker for other code.

Usage: isa_leaks.py OBJECT...     (objects of the ISA libraries)
A weak symbol outside the ISA's own namespace is such a function: an inline one of a shared header. Prints each; exit code 1 if any.
"""

import re
import subprocess
import sys

ALLOWED = re.compile(r"DW\.ref\.|ingot::cpu::(scalar|avx2|avx512)::|__asan|__ubsan|__tsan")


def main():
    leaks = 0
    for path in sys.argv[1:]:
        out = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
        for line in out.splitlines():
            kind, _, name = line[17:].partition(" ")
            if kind in ("W", "V", "u") and not ALLOWED.search(name):
                print(f"{path}: {name}")
                leaks += 1
    print(f"isa_leaks: {len(sys.argv) - 1} objects, {leaks} leaks")
    return 1 if leaks or len(sys.argv) < 2 else 0


if __name__ == "__main__":
    sys.exit(main())
