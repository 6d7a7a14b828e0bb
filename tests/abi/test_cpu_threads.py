"""The CPU backend alone: threads that the machine grants, the pool under stress, caches; compiled from its sources."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolchain import HERE, SOURCES, Toolchain, execute

CPU = SOURCES / "backends" / "cpu"


@pytest.fixture(scope="module")
def pool(toolchain: Toolchain) -> Path:
    sources = [HERE / "unit" / "pool.cc", CPU / "pool.cc", CPU / "cgroup.cc"]
    return toolchain.compile(toolchain.folder / "pool", sources, [f"-I{CPU}", "-D_GNU_SOURCE", "-lpthread"])


@pytest.fixture(scope="module")
def cgroup(toolchain: Toolchain) -> Path:
    return toolchain.compile(
        toolchain.folder / "cgroup", [HERE / "unit" / "cgroup.cc", CPU / "cgroup.cc"], [f"-I{CPU}"]
    )


@pytest.fixture(scope="module")
def cache(toolchain: Toolchain) -> Path:
    sources = [HERE / "unit" / "cache.cc", CPU / "cache.cc"]
    return toolchain.compile(toolchain.folder / "cache", sources, [f"-I{CPU}", "-D_GNU_SOURCE"])


# ---------------------------------------------------------------------- the pool


@pytest.mark.parametrize("threads", ["", "1", "2", "5"], ids=lambda n: n or "default")
@pytest.mark.parametrize("test", ["stress", "nest", "callers", "forks", "migrate", "restrict", "crowd"])
def test_pool(pool: Path, test: str, threads: str):
    if test == "forks" and "thread" in os.environ.get("INFINIOP_TEST_FLAGS", ""):
        pytest.skip("the thread sanitizer allows no threads after a fork")
    done = execute(pool, test, env={"INFINIOP_NUM_THREADS": threads})
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr


def count(pool: Path, threads: str) -> tuple[int, str]:
    done = execute(pool, "count", env={"INFINIOP_NUM_THREADS": threads})
    return int(done.stdout), done.stderr


def test_thread_count_is_what_was_asked_for(pool: Path):
    default, said = count(pool, "")
    assert 1 <= default <= len(os.sched_getaffinity(0)) and not said
    assert count(pool, "3") == (3, "") and count(pool, "256") == (256, "")


@pytest.mark.parametrize("text", ["0", "-1", "two", "2.5", "2 threads", "257", "99999999999999999999"])
def test_a_bad_thread_count_is_one_sentence(pool: Path, text: str):
    threads, said = count(pool, text)
    assert threads == count(pool, "")[0]
    assert said == f"INFINIOP_NUM_THREADS={text} is ignored: expected a number from 1 to 256\n"


# ---------------------------------------------------------------------- caches


@given(sizes=st.lists(st.sampled_from(["32K", "1024K", "16M", "4096"]), max_size=4))
def test_the_largest_cache_counts(cache: Path, tmp_path_factory: pytest.TempPathFactory, sizes):
    root, units = tmp_path_factory.mktemp("machine"), {"K": 1 << 10, "M": 1 << 20}
    for i, size in enumerate(sizes):
        folder = root / f"sys/devices/system/cpu/cpu0/cache/index{i}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(size + "\n")
    done = execute(cache, root)
    assert int(done.stdout) == max((int(s.rstrip("KM")) * units.get(s[-1], 1) for s in sizes), default=0)


# ---------------------------------------------------------------------- cgroups


def machine(root: Path, memberships: str, mounts: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": memberships, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def granted(cgroup: Path, root: Path) -> tuple[float, list[str]]:
    done = execute(cgroup, root)
    assert done.returncode == 0, done.stderr
    quota, *folders = done.stdout.splitlines()
    return float(quota), folders


V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


def test_without_cgroups_there_is_no_quota(cgroup: Path, tmp_path: Path):
    assert granted(cgroup, tmp_path) == (0, [])


@given(quotas=st.lists(st.none() | st.integers(1000, 2_000_000), min_size=1, max_size=4))
def test_the_least_quota_on_the_way_up_counts(cgroup: Path, tmp_path_factory: pytest.TempPathFactory, quotas):
    files, folder = {}, ""
    for i, quota in enumerate(quotas):
        folder += f"/level{i}"
        files[f"sys/fs/cgroup{folder}/cpu.max"] = f"{quota or 'max'} 100000\n"
    root = machine(tmp_path_factory.mktemp("machine"), f"0::{folder}\n", V2, files)
    least = min((q for q in quotas if q), default=0) / 100000
    assert granted(cgroup, root)[0] == pytest.approx(least, rel=1e-4)


def test_version_2_in_a_namespace_of_its_own(cgroup: Path, tmp_path: Path):
    root = machine(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": "150000 100000\n"})
    assert granted(cgroup, root) == (1.5, ["/sys/fs/cgroup"])


def test_version_1_beside_version_2(cgroup: Path, tmp_path: Path):
    files = {
        "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "20000\n",
    }
    root = machine(tmp_path, "4:memory:/m\n2:cpu,cpuacct:/a/b\n0::/\n", V1, files)
    assert granted(cgroup, root) == (2.5, ["/sys/fs/cgroup/memory/m", "/sys/fs/cgroup/memory"])


def test_a_container_sees_its_folder_as_the_top(cgroup: Path, tmp_path: Path):
    mounts = "40 24 0:26 /docker/c1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    files = {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/job/cpu.max": "300000 100000\n"}
    assert granted(cgroup, machine(tmp_path, "0::/docker/c1/job\n", mounts, files))[0] == 3.0


def test_files_that_make_no_sense_grant_everything(cgroup: Path, tmp_path: Path):
    files = {"sys/fs/cgroup/a/cpu.max": "plenty\n", "sys/fs/cgroup/cpu.max": "0 0\n"}
    assert granted(cgroup, machine(tmp_path, "nonsense\n0::/a\n", "nonsense\n - \n" + V2, files))[0] == 0
