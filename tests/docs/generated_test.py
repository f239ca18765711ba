"""The generated tables in docs are what their generators print now.

Usage: generated_test.py INGOT SOURCE_ROOT MODULES_FILE [--update]
"""

import subprocess
import sys
from pathlib import Path


def main():
    ingot, root, modules = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    tables = {
        "docs/models.md": [ingot, "models", "--markdown"],
        "docs/architecture.md": [sys.executable, str(root / "tools" / "docs_diagram.py"), modules],
    }
    failed = 0
    for name, command in tables.items():
        table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        path = root / name
        text = path.read_text()
        head = table.splitlines()[0]
        if text[text.find(head):] == table and head in text:
            continue
        if "--update" in sys.argv:
            path.write_text(text[:text.find(head)] + table)
        else:
            failed += 1
            print(f"{name} differs from what `{' '.join(command)}` prints; run this test with --update and read the change")
    figures = subprocess.run([sys.executable, str(root / "tools" / "docs_performance.py"), str(root), *(a for a in sys.argv if a == "--update")], capture_output=True, text=True)
    if figures.returncode != 0:
        failed += 1
        print(figures.stdout + figures.stderr)
    print(f"{len(tables) + 1 - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
