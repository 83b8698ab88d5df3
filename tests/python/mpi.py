"""mpirun for tests: ranks on this machine, or on two hosts made of network namespaces."""

import contextlib
import os
import pathlib
import random
import shutil
import subprocess

from paths import BINARY

FLAGS = ["--oversubscribe", "--bind-to", "none"]
if os.geteuid() == 0:
    FLAGS.append("--allow-run-as-root")


def command(ranks, *words, flags=()):
    """The words of `nano-vllm WORDS` on so many ranks; a list of lists: each rank its own words."""
    if words and isinstance(words[0], list):
        each = [["-n", "1", BINARY, *own] for own in words]
        programs = each[0] + [word for own in each[1:] for word in (":", *own)]
    else:
        programs = ["-n", ranks, BINARY, *words]
    return [str(word) for word in ("mpirun", *FLAGS, *flags, *programs)]


def run(ranks, *words, flags=(), stdin=b"", timeout=60, prefix=()):
    return subprocess.run([*prefix, *command(ranks, *words, flags=flags)], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=timeout)


def process_of_rank(rank, *, among):
    """The pid of a rank of an mpirun process."""
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            status = (folder / "status").read_text()
            environment = (folder / "environ").read_bytes().split(b"\0")
            if f"PPid:\t{among}\n" in status and f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment:
                return int(folder.name)
    return None


class TwoHosts:
    """with TwoHosts(folder) as hosts: hosts.run(...): rank 0 on "host-a", rank 1 on "host-b", which have a network between them
    and nothing else. Raises OSError where namespaces cannot be made."""

    def __init__(self, folder):
        self.agent = pathlib.Path(folder) / "agent"
        number = random.randrange(1 << 16)
        self.spaces = [f"nv{number:x}{side}" for side in "ab"]
        self.network = f"10.{200 + number % 50}.{number // 256}"

    def __enter__(self):
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
            raise OSError("network namespaces need root, ip and unshare")
        a, b = self.spaces
        self._ip("netns", "add", a)
        try:
            self._ip("netns", "add", b)
            self._ip("link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b)
            for i, space in enumerate(self.spaces):
                self._ip("-n", space, "addr", "add", f"{self.network}.{i + 1}/24", "dev", "eth0")
                for device in ("eth0", "lo"):
                    self._ip("-n", space, "link", "set", device, "up")
        except OSError:
            self.__exit__()
            raise
        # What mpirun calls as it would ssh: agent HOST WORDS...
        self.agent.write_text(f"#!/bin/sh\nshift\nexec {' '.join(self._on(1))} sh -c \"$*\"\n")
        self.agent.chmod(0o755)
        return self

    def __exit__(self, *_):
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL)

    def run(self, *words, timeout=60):
        net = f"{self.network}.0/24"
        flags = ["--mca", "plm_rsh_agent", str(self.agent), "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", net,
                 "--mca", "oob_tcp_if_include", net, "-H", f"{self.network}.1:1,{self.network}.2:1"]
        return run(2, *words, flags=flags, timeout=timeout, prefix=self._on(0))

    def _on(self, side):
        """A prefix that runs a command on a host."""
        return ["ip", "netns", "exec", self.spaces[side], "unshare", "--uts", "sh", "-c",
                f"'hostname host-{'ab'[side]}; exec \"$@\"'" if side else "hostname host-a; exec \"$@\"", "sh"]

    @staticmethod
    def _ip(*words):
        done = subprocess.run(["ip", *words], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise OSError(f"ip {' '.join(words)}: {done.stderr}")
