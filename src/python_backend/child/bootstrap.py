"""First code of the child process: ties its life to the server's, makes the embedded modules importable, runs the runner.

Called by `python -c` with `sources` (module name -> text) in its globals; argv[1] is the name that ps shows, argv[2] the instance's name,
argv[3] the setup as JSON.
"""

import ctypes
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


class EmbeddedModules(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """The modules that the server brings along; get_source() lets tracebacks show their lines."""

    def __init__(self, sources):
        self._sources = sources

    def find_spec(self, name, path=None, target=None):
        if name not in self._sources:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin="<ingot %s>" % name)

    def get_source(self, name):
        return self._sources[name]

    def get_code(self, name):
        return compile(self._sources[name], "<ingot %s>" % name, "exec", dont_inherit=True)


def tie_to_server(server):
    # The signal comes when the server's thread that started us ends; that thread lives as long as the server wants us to.
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NAME, sys.argv[1].encode(), 0, 0, 0)
    except (OSError, AttributeError):
        pass
    if os.getppid() != server:
        os._exit(1)


def main(sources):
    setup = json.loads(sys.argv[3])
    tie_to_server(setup["server"])
    del sys.argv[1:]
    sys.meta_path.insert(0, EmbeddedModules(sources))
    sys.path[:] = [p for p in sys.path if p != ""]
    import ingot_python_runner

    ingot_python_runner.main(setup)


main(sources)  # noqa: F821
