"""Makes the stubs of penstock.v1 before each build; all else is in pyproject.toml."""

import pathlib
import subprocess
import sys

from setuptools import setup

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"

# A source distribution has no proto/ beside it: it has the stubs.
if PROTO.is_dir():
    out = HERE / "src"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}",
         f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}",
         *sorted(map(str, PROTO.glob("penstock/v1/*.proto")))],
        check=True)

setup()
