"""Two hosts, as two network namespaces joined by a cable: the same program on both under torchrun."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("torch")

DEMO = "examples/demo_model/model"
HOSTS = {"infiniop-a": "10.77.0.1", "infiniop-b": "10.77.0.2"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip (Debian: iproute2)")
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip(
            "link",
            "add",
            "infiniop0",
            "netns",
            "infiniop-a",
            "type",
            "veth",
            "peer",
            "infiniop0",
            "netns",
            "infiniop-b",
        )
        for host, address in HOSTS.items():
            ip("-n", host, "address", "add", f"{address}/24", "dev", "infiniop0")
            for device in ("lo", "infiniop0"):
                ip("-n", host, "link", "set", device, "up")
        yield list(HOSTS)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.decode().strip()}")
    finally:
        for host in HOSTS:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", host)


@pytest.mark.parametrize("split", ["--tp", "--pp"])
def test_two_hosts_generate_what_one_does(hosts, split):
    generate = ["-m", "infiniop", "generate", DEMO, "-p", "import os\n", "--max-new-tokens", "12", "--temperature", "0"]
    (first, address), (second, _) = HOSTS.items()
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "infiniop0"}

    def start(host: str, rank: int) -> subprocess.Popen[str]:
        launcher = ["torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1",
                    "--master-addr", address, "--master-port", "29577"]  # fmt: skip
        command = ["ip", "netns", "exec", host, sys.executable, "-m", *launcher, *generate, "--no-stream", split, "2"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)

    both = [start(first, 0), start(second, 1)]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert [process.returncode for process in both] == [0, 0], outputs
    alone = subprocess.run([sys.executable, *generate, "--no-stream"], capture_output=True, text=True, check=True)
    assert alone.stdout.split("\n\n")[0] in outputs[0]
    assert "import os" not in outputs[1]
