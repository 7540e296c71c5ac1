"""Every instruction set gives the same bits, also those of processors that are not at hand: a program without Python runs all
kernels on pseudo-random data at awkward sizes and prints a digest for each case, here and under qemu's emulation."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packages import missing

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
AARCH64_COMPILER, AARCH64_ROOT = "aarch64-linux-gnu-g++", "/usr/aarch64-linux-gnu"
FOR_AARCH64 = (f"-DCMAKE_CXX_COMPILER={AARCH64_COMPILER}", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
APT = "Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user"

x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="these are cases of an x86 processor")

SEARCHED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # a virtual environment brings its own cmake


def run(*command: str | Path) -> str:
    """What the command prints; its complaints are the test's failure."""
    environ = os.environ | {"PATH": SEARCHED}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=500, env=environ)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def need(*programs: str, remedy: str) -> None:
    for program in programs:
        if shutil.which(program, path=SEARCHED) is None:
            missing(f"{program} is not installed ({remedy})")


def build(folder: Path, *options: str) -> Path:
    need("cmake", remedy="pip install cmake")
    need("make", "g++", remedy="Debian and Ubuntu: apt install make g++")
    run("cmake", "-S", ROOT, "-B", folder, "-G", "Unix Makefiles", "-DSAMOVAR_DIGESTS=ON", *options)
    run("cmake", "--build", folder, "--parallel", "2")
    return folder / "kernel_digests"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, for this processor."""
    return build(tmp_path_factory.mktemp("digests"))


@pytest.fixture(scope="module")
def digests(program: Path) -> str:
    """What the plain C++ kernels print on this processor."""
    printed = run(program, "scalar")
    assert len(printed.splitlines()) > 300
    return printed


def test_every_instruction_set_of_this_processor_gives_the_same_bits(program: Path, digests: str) -> None:
    for isa in run(program).split():
        assert run(program, isa) == digests, isa


def flags_of_this_processor() -> set[str]:
    """The names that Linux gives to what the processor can do, on x86."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


def test_amx_is_found_where_there_is_one_and_nowhere_else(program: Path) -> None:
    expected = {"amx_tile", "amx_int8", "avx512_vnni"} <= flags_of_this_processor()
    assert ("amx" in run(program).split()) == expected


def test_the_check_at_start_tells_right_tile_products_from_wrong_ones(program: Path) -> None:
    if "avx512_vnni" not in flags_of_this_processor():
        pytest.skip("this processor has no AVX-512 with VNNI, which the emulation of AMX runs on")
    assert "amx_emulated" in run(program).split()
    assert run(program, "amx-check").split() == ["agrees", "differs"]


@pytest.fixture(scope="module")
def aarch64_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, for AArch64."""
    need(AARCH64_COMPILER, "qemu-aarch64", remedy=APT)
    return build(tmp_path_factory.mktemp("aarch64"), *FOR_AARCH64)


# A processor that has more runs what one that has less does: kernels are run where the least is there that they may take.
@pytest.mark.parametrize(
    ("cpu", "isas", "runs"),
    [("max", ["scalar", "neon", "neon_dot"], ["neon_dot"]), ("cortex-a53", ["scalar", "neon"], ["scalar", "neon"])],
)
def test_aarch64_gives_the_same_bits_with_and_without_dot_products(
    cpu: str, isas: list[str], runs: list[str], aarch64_program: Path, digests: str
) -> None:
    emulated = ("qemu-aarch64", "-cpu", cpu, "-L", AARCH64_ROOT, aarch64_program)
    assert run(*emulated).split() == isas
    for isa in runs:
        assert run(*emulated, isa) == digests, isa


@x86_only
@pytest.mark.parametrize(
    ("cpu", "isas", "runs"),
    [
        ("Nehalem", ["scalar"], ["scalar"]),
        ("Haswell", ["scalar", "avx2"], ["avx2"]),
        ("max,-fma", ["scalar"], []),
        ("max,-f16c", ["scalar"], []),
    ],
)
def test_a_processor_gets_only_what_it_has_all_of(
    cpu: str, isas: list[str], runs: list[str], program: Path, digests: str
) -> None:
    need("qemu-x86_64", remedy=APT)
    emulated = ("qemu-x86_64", "-cpu", cpu, program)
    assert run(*emulated).split() == isas
    for isa in runs:
        assert run(*emulated, isa) == digests
