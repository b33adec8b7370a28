"""Starts, measures and ends the processes of the bench.

CPU time and memory come from /proc, so that RabbitMQ, Redis, Go and C++ are
measured in the same way. Only processes that were started here are ended.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A cell that has no figure: something ended badly, or a check failed."""


@dataclasses.dataclass
class Command:
    argv: list[str]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def tree(pid: int) -> list[int]:
    """A process and its children: Celery's workers are such."""
    found = [pid]
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process that runs, and of its children."""
    return sum(own_cpu_seconds(one) for one in tree(pid))


def own_cpu_seconds(pid: int) -> float:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_rss_mb(pid: int) -> float:
    """The most that it has had, and its children: a page that two share counts
    twice."""
    return sum(own_peak_rss_mb(one) for one in tree(pid))


def own_peak_rss_mb(pid: int) -> float:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else 0.0


class Process:
    """One that serves until it is stopped."""

    def __init__(self, command: Command, log: pathlib.Path):
        self.log = log
        self._name = command.argv[0]
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command.argv, env=os.environ | command.environment, stdout=output,
                stderr=output, stdin=subprocess.DEVNULL)
        self.pid = self._process.pid

    def check(self) -> None:
        if self._process.poll() is not None:
            raise Failed(f"{self._name} has ended: {tail(self.log)}")

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Client:
    """One that ends by itself and prints a line of JSON, its figures."""

    def __init__(self, command: Command, log: pathlib.Path, patience: float = 180):
        self._log = log
        self._words = " ".join(command.argv)
        self._until = time.monotonic() + patience
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                command.argv, env=os.environ | command.environment, stderr=errors,
                stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        assert self._process.stdout
        self._output = self._process.stdout
        self.cpu = 0.0
        self.rss_mb = 0.0

    def read_line(self) -> str:
        return self._output.readline().strip()

    def finish(self) -> dict[str, float]:
        """Its figures; its CPU time and memory are known from then on."""
        status, usage = self._wait()
        if status != 0:
            raise Failed(f"{self._words} ended with {status}: "
                         f"{tail(self._log)}")
        self.cpu = usage.ru_utime + usage.ru_stime
        self.rss_mb = usage.ru_maxrss / 1000
        lines = self._output.read().splitlines()
        if not lines:
            raise Failed(f"{self._words} printed nothing: {tail(self._log)}")
        return json.loads(lines[-1])

    def end(self) -> None:
        """For one whose figures are not wanted any more."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _wait(self):
        while True:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                # Popen must not wait for it again.
                self._process.returncode = os.waitstatus_to_exitcode(status)
                return self._process.returncode, usage
            if time.monotonic() > self._until:
                self.end()
                raise Failed(f"{self._words} took too long")
            time.sleep(0.005)


def find(pattern: str, content: str) -> str:
    found = re.search(pattern, content)
    if not found:
        raise Failed(f"{pattern} is not in: {content}")
    return found[1]


def tail(log: pathlib.Path) -> str:
    return log.read_text(errors="replace")[-600:].strip()


def free_port() -> int:
    found = subprocess.run([ROOT / "deploy/free-port"], check=True,
                           capture_output=True, text=True)
    return int(found.stdout)


def await_port(port: int, process: Process) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        process.check()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise Failed(f"nothing listens on {port}")


class Servers:
    """A RabbitMQ and a Redis of the run's own."""

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        # As RabbitMQ is by default; the tests give it one core.
        self._environment = os.environ | {
            "PENSTOCK_RABBITMQ_SCHEDULERS": str(os.cpu_count())}
        urls = self._call("start")
        self.amqp_url = find(r"AMQP_URL=(\S+)", urls)
        self.redis_url = find(r"REDIS_URL=(\S+)", urls)
        self.amqp_port = int(find(r":(\d+)/", self.amqp_url))
        self.redis_port = int(find(r":(\d+)$", self.redis_url))

    def pids(self) -> dict[str, int]:
        return {name: int((self._directory / f"{name}.process").read_text().split()[0])
                for name in ("rabbitmq", "redis")}

    def empty_redis(self) -> None:
        with socket.create_connection(("127.0.0.1", self.redis_port), 10) as redis:
            redis.sendall(b"FLUSHALL\r\n")
            if not redis.recv(100).startswith(b"+OK"):
                raise Failed("FLUSHALL was refused")

    def stop(self) -> None:
        self._call("stop")

    def _call(self, verb: str) -> str:
        return subprocess.run([ROOT / "deploy/servers", verb, self._directory],
                              env=self._environment, check=True,
                              stdout=subprocess.PIPE, text=True).stdout
