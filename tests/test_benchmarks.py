"""Every benchmark runs and prints its tables, in the smallest size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
SMALLEST = {
    "blocking": "--codec fast --layers 1 --rounds 1 --milliseconds 1 --saves 4",
    "quality": "--training mlp --codec fast excp --seeds 1 --figure ratio.png",
    "restore": "--codec fast --layers 1 --rounds 1 --chain 1 2",
    "speed": "--codec fast --values 3000000 --rounds 1",
    "torch_saving": "--layers 1 --rounds 1 --before 1",
}


def test_every_benchmark_is_run():
    commands = {path.stem for path in BENCHMARKS.glob("*.py") if "argparse" in path.read_text()}
    assert commands == SMALLEST.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs(name, tmp_path):
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *SMALLEST[name].split()],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n|") > 2
