"""The GPU code with the real pycuda on a mock of the CUDA driver, which checks the rules of CUDA and that nothing is leaked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import mock_gpu
from support.paths import REPOSITORY

FOLDER = Path(__file__).parent / "on_mock_gpu"


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    try:
        return mock_gpu.build(request.config.cache.mkdir("mock-gpu"))
    except mock_gpu.UnavailableError as reason:
        if os.environ.get("ANOSEG_NEEDS_MOCK_GPU"):
            pytest.fail(f"no mock GPU: {reason}")
        pytest.skip(f"no mock GPU: {reason}")


@pytest.mark.long
@pytest.mark.timeout(600)  # the first run on a machine compiles pycuda
def test_the_gpu_code_breaks_no_rule_of_cuda_and_leaks_nothing(folder: Path) -> None:
    """All tests in `on_mock_gpu` pass, in a process that has the mock driver and pycuda."""
    environment = {
        **os.environ,
        "ANOSEG_MOCK_GPU": str(folder),
        "MALLOC_PERTURB_": "165",  # freed memory is overwritten, so a copy from it is seen
    }
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
