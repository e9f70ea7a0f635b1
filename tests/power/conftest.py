import shutil
import subprocess
from pathlib import Path

import pytest

from tests.whole.conftest import folder, scene  # noqa: F401  # fixtures


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``shim.c`` as a library."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc here to build the shim with")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
