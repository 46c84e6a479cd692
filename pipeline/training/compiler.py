"""Whether torch can compile networks on this machine."""

import os
import shutil
import sys

import torch

from pipeline.errors import UserError


def check_compiler() -> None:
    """Raises UserError where torch.compile would end in a trace: on a CPU it writes C++. A recipe for a cluster is
    checked on the driver's machine, like its precision."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # torch takes the same
    if not torch.cuda.is_available() and not shutil.which(compiler.split()[0]):
        raise UserError(
            f"training.compile needs a C++ compiler and there is no {compiler} here; install one, name it in CXX, or"
            " leave training.compile out"
        )
