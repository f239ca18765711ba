"""The golden fixtures in GGUF and in Meta's form: makes the files with the published gguf package, then compares as golden_test does.

Usage: forms_test.py GOLDEN_TEST SOURCE_DIR WORK_DIR
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import gguf  # noqa: F401
    import numpy  # noqa: F401
except ImportError as e:
    print(f"no {e.name} for this Python ({sys.executable}): tools/install.sh test makes one that has it")
    sys.exit(1 if os.environ.get("CI") else 77)

test, source, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
shutil.rmtree(work, ignore_errors=True)
maker = source / "tools/fixtures/golden/other_forms.py"
code = subprocess.run([sys.executable, maker, "--out", work]).returncode or subprocess.run([test, work]).returncode
shutil.rmtree(work, ignore_errors=True)
sys.exit(code)
