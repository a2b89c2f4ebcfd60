"""Training spread over several devices of one process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "backend"), [("mirrored", "tensorflow"), ("parallel", "jax")])
def test_what_is_spread_is_saved_restored_and_continued(tmp_path, mode, backend):
    pytest.importorskip(backend)
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "distributed_training.py", mode, tmp_path],
        env={
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "PATH": "/usr/bin:/bin",
            "KERAS_BACKEND": backend,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stdout == "done\n", run.stderr
