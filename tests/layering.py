"""Checks the house rules on the tree: includes only where declared, no cycle, no file over 800 lines, no vague names.

Usage: layering.py SOURCE_ROOT MODULES_FILE     (MODULES_FILE: lines "module: dep dep", written by ingot_module())
Prints each violation on a line of its own; exit code 1 when there is one.
"""

import re
import subprocess
import sys
from pathlib import Path

MAX_LINES = 800
VAGUE = re.compile(r"(^|_)(utils?|common|helpers?|manager|misc)(_|\.|$)")
GENERATED = "generated"  # a generated table says so in its first five lines


def read_modules(path):
    modules = {}
    for line in path.read_text().splitlines():
        name, _, deps = line.partition(":")
        modules[name] = deps.split()
    return modules


def cycle(modules):
    """The declarations come bottom up, so a dependency on a later module is the only way to a cycle."""
    seen = set()
    for name, deps in modules.items():
        for dep in deps:
            if dep not in seen:
                yield f"module {name} depends on {dep}, which is declared after it or not at all"
        seen.add(name)


def include_errors(root, modules):
    include = re.compile(r'^\s*#\s*include\s+"([a-z_]+)/([^"]+)"', re.M)
    for path in sorted((root / "src").rglob("*")):
        if path.suffix not in (".cc", ".h", ".cu", ".cuh", ".inc"):
            continue
        own = path.relative_to(root / "src").parts[0]
        if own not in modules:
            continue
        for match in include.finditer(path.read_text()):
            module, rest = match.groups()
            if module == own or module not in modules:
                continue
            where = f"{path.relative_to(root)} includes {module}/{rest}"
            if module not in modules[own] and not path.name.endswith(("_test.cc", "_fuzz.cc")):
                yield f"{where}, but ingot_module({own}) does not declare {module}"
            if rest.startswith("internal/"):
                yield f"{where}, which is internal to {module}"


def file_errors(root):
    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, names):
        path = root / name
        if not path.is_file():
            continue
        if VAGUE.search(path.name) or any(VAGUE.search(part) for part in path.relative_to(root).parts[:-1]):
            yield f"{name}: the name hides the noun (utils, common, helper, manager)"
        if path.suffix in (".cc", ".h", ".cu", ".cuh", ".py", ".rs", ".js", ".ts", ".css", ".html", ".cmake"):
            lines = path.read_text(errors="replace").split("\n")
            if len(lines) > MAX_LINES + 1 and not any(GENERATED in line for line in lines[:5]):
                yield f"{name} has {len(lines) - 1} lines, at most {MAX_LINES} are allowed"


def main():
    root, modules = Path(sys.argv[1]), read_modules(Path(sys.argv[2]))
    errors = [*cycle(modules), *include_errors(root, modules), *file_errors(root)]
    for error in errors:
        print(error)
    print(f"layering: {len(modules)} modules, {len(errors)} violations")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
