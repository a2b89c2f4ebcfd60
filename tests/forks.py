"""Processes that are forked from one which has imported Keras, since importing it takes longer
than what they do."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

TESTS = Path(__file__).parent


def serve(live):
    """For each line that comes in, options as JSON, call `live` with them in a process of its own,
    and tell how that ended."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            status = 1
            try:
                live(**json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", flush=True)


class Forks:
    """A script that calls `serve`, on one backend."""

    def __init__(self, script, backend):
        path = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
        self._server = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(path)},
        )

    def live(self, **options):
        """How one ended, and what it told."""
        self._server.stdin.write(json.dumps(options) + "\n")
        self._server.stdin.flush()
        told = None
        while not (line := self._server.stdout.readline()).startswith("ended"):
            assert line, "the server has ended"
            told = json.loads(line)
        return int(line.split()[1]), told

    def end(self):
        self._server.communicate()
