"""What import-linter can not say: a package's outside imports are on a list, not off one."""

import ast
import sys
from pathlib import Path

import ganmodels


def test_ganmodels_needs_torch_and_safetensors_and_nothing_else():
    found = set()
    for path in Path(ganmodels.__file__).parent.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).split(".")[0])
    assert found - set(sys.stdlib_module_names) == {"ganmodels", "torch", "safetensors"}
