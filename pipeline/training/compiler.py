"""Whether torch can compile networks on this machine."""

import os
import shutil
import sys

import torch

from pipeline.errors import UserError


def check_compiler() -> None:
    """Raises UserError where torch.compile would end in a trace: on a CPU torch writes C++, and on a GPU Triton has C
    around its kernels. A recipe for a cluster is checked on the driver's machine, like its precision."""
    language, variable, usual = "C++", "CXX", ["clang++" if sys.platform == "darwin" else "g++"]
    if torch.cuda.is_available():
        language, variable, usual = "C", "CC", ["gcc", "clang"]
    named = os.environ.get(variable)  # torch and Triton take the same
    tried = [named] if named else usual
    if not any(shutil.which(each.split()[0]) for each in tried):
        raise UserError(
            f"training.compile needs a {language} compiler and there is no {' or '.join(tried)} here; install one,"
            f" name it in {variable}, or leave training.compile out"
        )
