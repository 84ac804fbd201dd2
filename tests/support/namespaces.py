"""Machines whose network can be cut: network namespaces on one switch."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.support.paths import system_path
from tests.support.servers import PATIENCE


class Namespaces:
    """Machines of a network of their own, each a network namespace; a machine's cable can be pulled.

    All hang on one switch, which lies in a namespace too, so that no firewall rule of the host applies. The tests'
    own process takes part with the address `here`.
    """

    def __init__(self, count: int, folder: Path) -> None:
        for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
            if shutil.which(program, path=system_path()) is None:
                pytest.skip(f"needs {program}: apt-get install -y {package}")
        self.folder = folder
        # Of names of interfaces and namespaces; the former have 15 characters at most.
        self.prefix = f"ussfc{secrets.token_hex(2)}"
        subnet = _free_subnet()
        self.here, *self.addresses = [f"{subnet}.{last}" for last in range(1, count + 2)]
        self._switch = f"{self.prefix}-switch"
        self._names = [f"{self.prefix}-{where}" for where in range(count)]
        self._watch: subprocess.Popen[bytes] | None = None
        self._programs: list[subprocess.Popen[bytes]] = []

    def start_network(self) -> None:
        """Make the network; the test is skipped with the kernel's words where it may not be made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Reads until this process is gone, however it went, and cleans up behind it.
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", f"cat > /dev/null\n{self._last_acts()}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PATH": system_path()},
            start_new_session=True,
        )
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "switch", "up")
            self._plug("here", self.here, None)
            for where, (name, address) in enumerate(zip(self._names, self.addresses, strict=True)):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
                self._plug(f"port{where}", address, name)
        except RuntimeError as error:
            self.close()
            pytest.skip(f"needs network namespaces (root with CAP_NET_ADMIN and CAP_SYS_ADMIN): {error}")

    def _plug(self, port: str, address: str, name: str | None) -> None:
        """Lay a cable from the switch's `port` to a machine, or to the host."""
        end = f"{self.prefix}{port}"
        _ip("link", "add", end, "type", "veth", "peer", "name", port, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
        inside = [] if name is None else ["-n", name]
        if name is not None:
            _ip("link", "set", end, "netns", name)
        _ip(*inside, "address", "add", f"{address}/24", "dev", end)
        _ip(*inside, "link", "set", end, "up")

    def door(self, where: int) -> list[str]:
        """Return the command that starts the command behind it on a machine."""
        return ["nsenter", f"--net=/run/netns/{self._names[where]}", "--"]

    def start(self, command: Sequence[str], where: int) -> subprocess.Popen[bytes]:
        """Start a program on a machine; what it prints goes to `WHERE-N.log` in the folder."""
        with (self.folder / f"{where}-{len(self._programs)}.log").open("wb") as log:
            program = subprocess.Popen(
                [*self.door(where), *command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._programs.append(program)
        return program

    def cut(self, where: int) -> None:
        """Pull a machine's cable: packets vanish without an answer, connections stay open."""
        _ip("-n", self._switch, "link", "set", f"port{where}", "down")

    def restore(self, where: int) -> None:
        """Plug it in again."""
        _ip("-n", self._switch, "link", "set", f"port{where}", "up")

    def _last_acts(self) -> str:
        """Return the commands that kill all programs on the machines and take the network away."""
        acts = [f"ip netns pids {name} | xargs -r kill -s KILL" for name in self._names]
        # The kernel removes a namespace, and cables with it, at its leisure: the host's end goes at once.
        acts.append(f"ip link delete {self.prefix}here")
        acts += [f"ip netns delete {name}" for name in (*self._names, self._switch)]
        return "\n".join(acts)

    def close(self) -> None:
        """End all programs and remove the network."""
        if self._watch is not None:
            self._watch.communicate(timeout=PATIENCE)
            self._watch = None
        for program in self._programs:
            program.wait(PATIENCE)
        self._programs.clear()

    def __enter__(self) -> Self:
        self.start_network()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ip(*arguments: str) -> str:
    """Return the output of `ip`.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, env=os.environ | {"PATH": system_path()}
    )
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _free_subnet() -> str:
    """Return three numbers of a private /24 to which this host has no address yet."""
    taken = {
        ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for interface in json.loads(_ip("-4", "-json", "address"))
        for address in interface["addr_info"]
    }
    for third in random.SystemRandom().sample(range(256), 256):
        if not any(network.overlaps(ipaddress.ip_network(f"10.213.{third}.0/24")) for network in taken):
            return f"10.213.{third}"
    pytest.skip("needs a free subnet within 10.213.0.0/16: the host has addresses in all")
