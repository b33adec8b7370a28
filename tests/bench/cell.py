"""A cell: one scenario with one system, once. It has a queue of its own, an empty
Redis, and processes that were started for it.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import processes
from processes import Client, Command, Failed, Process, Servers
from systems import Load, Queue, Systems

numbers = itertools.count()


@dataclasses.dataclass
class Figure:
    """What a cell has measured."""
    value: float  # in the unit of the scenario
    tasks: int
    seconds: float
    cpu: dict[str, float]  # seconds by process
    rss_mb: dict[str, float]  # the most that each process has had
    details: dict[str, float] = dataclasses.field(default_factory=dict)


class Cell:
    def __init__(self, systems: Systems, servers: Servers, logs: pathlib.Path,
                 quorum: bool = False, redis: bool = False):
        name = f"bench-{next(numbers)}"
        self.systems = systems
        self.queue = Queue(name, quorum, redis)
        self.port = 0  # of the gateway
        self._servers = servers
        self._log = logs / f"{name}.log"
        self._processes: dict[str, Process] = {}
        self._clients: list[tuple[str, Client]] = []
        self._cpu: dict[str, float] = {}
        self._loads = itertools.count()
        servers.empty_redis()

    def close(self) -> None:
        for process in self._processes.values():
            process.stop()
        for _, client in self._clients:
            client.end()
        if not self.queue.redis:
            with contextlib.suppress(Failed):
                self._run(self.systems.ceiling("delete", self.queue))

    # ---- processes

    def serve(self, name: str, command: Command) -> None:
        self._processes[name] = Process(command, self._log)

    def serve_gateway(self, kind: str) -> None:
        self.port = processes.free_port()
        if kind == "penstock":
            command = self.systems.penstock_gateway(self.queue, self.port)
        elif kind == "go":
            command = self.systems.go("gateway", self.queue,
                                      listen=f"127.0.0.1:{self.port}")
        else:
            command = self.systems.ceiling("echo", self.queue,
                                           listen=f"127.0.0.1:{self.port}")
        self.serve("gateway", command)
        processes.await_port(self.port, self._processes["gateway"])

    def serve_worker(self, kind: str, concurrency: int, prefetch: int = 0,
                     name: str = "worker", queues: int = 0) -> None:
        if kind == "penstock":
            command = self.systems.penstock_worker(self.queue, concurrency, prefetch,
                                                   queues)
        else:
            command = self.systems.go("machinery-worker", self.queue,
                                      concurrency=concurrency, prefetch=prefetch)
        self.serve(name, command)

    def begin(self, name: str, command: Command) -> Client:
        client = Client(command, self._log)
        self._clients.append((name, client))
        return client

    # ---- sending and checking

    def load(self, tasks: int, **options: Any) -> Load:
        """With ids that no other load of this cell has."""
        return Load(f"{self.queue.name}-{next(self._loads)}", tasks,
                    queue=self.queue.name, **options)

    def sender(self, load: Load) -> Command:
        """By the gateway, or by machinery in process where there is none."""
        if self.port:
            return self.systems.load(self.port, load)
        if load.shape in ("group", "chord"):
            # They count calls, not tasks.
            return self.systems.go(f"machinery-{load.shape}", self.queue, prefix=load.prefix,
                                   tasks=load.tasks // load.size, size=load.size,
                                   outstanding=load.outstanding)
        command = "machinery-latency" if load.shape == "latency" else "machinery-send"
        return self.systems.go(command, self.queue, prefix=load.prefix,
                               tasks=load.tasks, outstanding=load.outstanding,
                               task=load.task, retries=load.retries, rate=load.rate)

    def send(self, load: Load) -> dict[str, float]:
        return self.begin("client", self.sender(load)).finish()

    def check(self, load: Load) -> None:
        self._run(self.systems.check(load))

    def begin_check(self, load: Load) -> Client:
        return self.begin("check", self.systems.check(load))

    def warm_up(self, tasks: int = 500, worker: bool = True) -> None:
        """Until a first load has gone through: programs take a while to connect."""
        for attempt in range(20):
            load = self.load(tasks)
            try:
                self._run(self.sender(load))
                break
            except Failed:
                if attempt == 19:
                    raise
                time.sleep(0.1)
        if worker:
            self.check(load)

    def drain(self, *loads: Load) -> None:
        """Runs what lies in the queue, unmeasured, and checks every result."""
        self.serve_worker("penstock", 100, name="drain")
        for load in loads:
            self.check(load)

    def _run(self, command: Command) -> dict[str, float]:
        client = Client(command, self._log)
        try:
            return client.finish()
        finally:
            client.end()

    def forget_clients(self) -> None:
        """What prepared a cell is not part of its figures."""
        self._clients.clear()

    # ---- measuring

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Notes the CPU time that each process takes meanwhile."""
        before = {name: processes.cpu_seconds(pid) for name, pid in self._pids().items()}
        yield
        for process in self._processes.values():
            process.check()
        for name, pid in self._pids().items():
            self._cpu[name] = processes.cpu_seconds(pid) - before.get(name, 0)
        for name, client in self._clients:
            self._cpu[name] = self._cpu.get(name, 0) + client.cpu

    def figure(self, value: float, tasks: int, seconds: float,
               **details: float) -> Figure:
        rss = {name: processes.peak_rss_mb(pid) for name, pid in self._pids().items()}
        for name, client in self._clients:
            rss[name] = max(rss.get(name, 0), client.rss_mb)
        return Figure(value, tasks, seconds, dict(self._cpu), rss, details)

    def _pids(self) -> dict[str, int]:
        own = {name: process.pid for name, process in self._processes.items()}
        return own | self._servers.pids()
