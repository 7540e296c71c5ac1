"""A mapped file that is cut while it is in use."""

import subprocess
import sys
from pathlib import Path

import pytest

from samovar.kernels.native import native_missing_reason
from tests.packages import missing

_READ_WHAT_IS_GONE = """
import sys
from pathlib import Path
from samovar.formats.mapped_file import MappedFile
from samovar.kernels.bus_error import say_on_bus_error

path = Path(sys.argv[1])
say_on_bus_error("the file is gone\\n")
file = MappedFile(path)
path.open("r+b").truncate(0)
print(file.memory[1 << 20])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_a_read_of_a_file_that_was_cut_ends_the_process_with_a_message(tmp_path: Path) -> None:
    if (reason := native_missing_reason()) is not None:
        missing(f"the native kernels: {reason}")
    path = tmp_path / "weights"
    path.write_bytes(bytes(2 << 20))
    done = subprocess.run([sys.executable, "-c", _READ_WHAT_IS_GONE, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the file is gone\n")
