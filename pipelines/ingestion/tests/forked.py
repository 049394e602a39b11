"""Our commands, each as a process of its own that is forked from one which has imported what they import.

`python -m MODULE` imports for longer than it works in a test. What differs from it: when the imports were done, and that no library is taken
down at the end, since one that has threads waits then for those that a fork does not have.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

MODULES = ("quarry_ingestion.__main__", "quarry_ingestion.artefacts", "quarry_ingestion.backup")
NEEDED_LATER = ("boto3", "quarry_ingestion.s3")  # which some of them import when they need them
LONGEST_SEC = 600


def run(module: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """`python -m MODULE ARGUMENTS` in this environment, to its end."""
    server = _server()
    assert server.stdin and server.stdout
    words = [str(argument) for argument in arguments]
    with TemporaryDirectory() as folder:
        asked = {"module": module, "arguments": words, "environment": dict(os.environ), "cwd": str(Path.cwd()), "folder": folder}
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess([module, *words], code, Path(folder, "1").read_text(), Path(folder, "2").read_text())


@cache
def _server() -> "subprocess.Popen[str]":
    """Ends with its standard input, which ends with us."""
    return subprocess.Popen([sys.executable, "-m", "tests.forked"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def serve() -> None:
    """A fork for each line."""
    for module in (*MODULES, *NEEDED_LATER):
        import_module(module)
    for module in MODULES:
        del sys.modules[module]  # they are run anew
    gc.freeze()
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = become(**json.loads(line))
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(module: str, arguments: list[str], environment: dict[str, str], cwd: str, folder: str) -> int:
    """Be that command; its exit code."""
    signal.alarm(LONGEST_SEC)
    for number in (1, 2):
        os.dup2(os.open(Path(folder, str(number)), os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    serve()
