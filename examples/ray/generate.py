"""Text from a model whose ranks run where Ray places them: on one machine, or on several that form a Ray cluster.

    python generate.py 2 path/to/model --prompt "def main(" --pp 2

The first argument is the number of ranks; the others are those of `infiniop generate`, which every rank runs with the
environment that torchrun would give it. Every host needs the model at this path. Variables of gloo, NCCL and infiniop
are handed on: GLOO_SOCKET_IFNAME where the hosts' names do not lead to each other, INFINIOP_NUM_THREADS to give ranks
on one host their share of its cores.
"""

import os
import socket
import subprocess
import sys

import ray


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
class Rank:
    def endpoint(self) -> tuple[str, int]:
        """This host's address and a port of it that is free: where the ranks meet."""
        address = ray.util.get_node_ip_address()
        with socket.create_server((address, 0)) as server:
            return address, server.getsockname()[1]

    def run(self, arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """The rank's exit status and what it printed."""
        command = [sys.executable, "-m", "infiniop", "generate", *arguments, "--no-stream"]
        done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
        return done.returncode, done.stdout


def main() -> int:
    size, arguments = int(sys.argv[1]), sys.argv[2:]
    ray.init(logging_level="warning")
    ranks = [Rank.remote() for _ in range(size)]
    address, port = ray.get(ranks[0].endpoint.remote())
    shared = {name: value for name, value in os.environ.items() if name.startswith(("GLOO_", "NCCL_", "INFINIOP_"))}
    shared |= {"WORLD_SIZE": str(size), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    results = ray.get([rank.run.remote(arguments, {**shared, "RANK": str(i)}) for i, rank in enumerate(ranks)])
    print(results[0][1], end="")
    return max(status for status, _ in results)


if __name__ == "__main__":
    sys.exit(main())
