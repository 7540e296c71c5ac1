import os

import pytest

from samovar.kernels.cores import usable_cores

AFFINITY = len(os.sched_getaffinity(0))


def cores(tmp_path, membership=""):
    (tmp_path / "cgroup").write_text(membership)
    return usable_cores(tmp_path / "fs", tmp_path / "cgroup")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_a_quota_the_affinity_counts(tmp_path):
    write(tmp_path / "fs/cpu.max", "max 100000\n")
    assert cores(tmp_path) == AFFINITY


@pytest.mark.parametrize(("quota", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("900000000 100000", AFFINITY)])
def test_the_quota_of_the_control_group_is_respected_and_never_below_one(tmp_path, quota, expected):
    write(tmp_path / "fs/cpu.max", quota)
    assert cores(tmp_path) == expected


def test_the_quota_of_the_processs_own_group_counts_too(tmp_path):
    write(tmp_path / "fs/cpu.max", "max 100000")
    write(tmp_path / "fs/user/box/cpu.max", "100000 100000")
    assert cores(tmp_path, "0::/user/box\n") == 1


def test_version_one_quotas_are_read(tmp_path):
    write(tmp_path / "fs/cpu/docker/x/cpu.cfs_quota_us", "100000")
    write(tmp_path / "fs/cpu/docker/x/cpu.cfs_period_us", "100000")
    assert cores(tmp_path, "4:cpu:/docker/x\n") == 1
