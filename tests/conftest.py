"""What every test may share. Nothing here starts by itself: Ray takes seconds, and most tests need none."""

import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray with two CPUs for the whole session; `pipeline.on_ray.cluster()` joins it."""
    import ray

    # Ray never clears its sessions away, and its sockets' paths are too long for pytest's own folders.
    folder = tempfile.mkdtemp(prefix="ganline-ray-")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
