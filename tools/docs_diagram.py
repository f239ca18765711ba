#!/usr/bin/env python3
"""Prints the module diagram of docs/architecture.md from the declarations that CMake wrote (build/release/modules.txt)."""

import sys
from pathlib import Path


def main():
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "build/release/modules.txt")
    levels, deps = {}, {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        deps[name] = rest.split()
        levels[name] = 1 + max((levels[d] for d in deps[name]), default=-1)
    print("| level | module | may include |\n|---:|---|---|")
    for level in sorted(set(levels.values()), reverse=True):
        for name in sorted(n for n, l in levels.items() if l == level):
            print(f"| {level} | {name} | {', '.join(deps[name]) or '-'} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
