"""The command lines of everything that is measured: Penstock, its peers, the load
clients and the check. Nothing else knows a flag of theirs.
"""

import dataclasses
import pathlib

from processes import Command, Servers


@dataclasses.dataclass(frozen=True)
class Queue:
    """Where the tasks of one cell lie: a queue, exchange and key of one name."""
    name: str
    quorum: bool = False
    redis: bool = False  # Redis is the broker


@dataclasses.dataclass(frozen=True)
class Load:
    """What a client sends: tasks add(n, 1) with the ids PREFIX-n."""
    prefix: str
    tasks: int
    shape: str = "unary"
    size: int = 50  # of one call that is not unary
    outstanding: int = 64
    rate: float = 0
    task: str = "add"
    due: float = 0
    span: float = 0
    retries: int = 0
    queues: int = 0  # that take them in turn; 0: the cell's own takes all
    queue: str = ""  # the name that theirs begin with

    def waited_for(self) -> "Load":
        """The calls that wait for these tasks."""
        return dataclasses.replace(self, shape="waiters")


class Systems:
    def __init__(self, binaries: pathlib.Path, peer: pathlib.Path,
                 celery: pathlib.Path, servers: Servers):
        self._binaries = binaries
        self._peer = peer
        self._celery = celery
        self._servers = servers

    # ---- Penstock

    def penstock_gateway(self, queue: Queue, port: int) -> Command:
        return Command([self._binary("penstock-gateway"), "--log_level=warning",
                        f"--listen=127.0.0.1:{port}"], self._environment(queue))

    def penstock_worker(self, queue: Queue, concurrency: int, prefetch: int = 0,
                        queues: int = 0) -> Command:
        """Of the cell's own queue, and of `queues` more."""
        environment = self._environment(queue)
        environment["PENSTOCK_CONCURRENCY"] = str(concurrency)
        return Command([self._binary("penstock-bench-worker"),
                        f"--prefetch={prefetch}",
                        "--queues=" + ",".join([queue.name] + [
                            f"{queue.name}-{n}" for n in range(queues)])],
                       environment)

    # ---- the client of both gateways

    def load(self, port: int, load: Load) -> Command:
        return Command([
            self._binary("penstock-bench-load"), f"--gateway=127.0.0.1:{port}",
            f"--mode={load.shape}", f"--prefix={load.prefix}",
            f"--tasks={load.tasks}", f"--size={load.size}",
            f"--outstanding={load.outstanding}", f"--rate={load.rate}",
            f"--task={load.task}", f"--due={load.due:.3f}",
            f"--span={load.span}s", f"--retries={load.retries}",
            f"--queues={load.queues}", f"--queue={load.queue}"])

    def check(self, load: Load) -> Command:
        return Command([
            self._binary("penstock-bench-check"),
            f"--redis_port={self._servers.redis_port}", f"--prefix={load.prefix}",
            f"--tasks={load.tasks}", f"--due={load.due:.3f}",
            f"--span={load.span}s"])

    # ---- Go

    def go(self, command: str, queue: Queue, **flags: object) -> Command:
        broker = self._servers.redis_url if queue.redis else self._servers.amqp_url
        argv = [str(self._peer), command, f"-broker={broker}",
                f"-backend={self._servers.redis_url}", f"-queue={queue.name}",
                f"-quorum={str(queue.quorum).lower()}"]
        return Command(argv + [f"-{name}={value}" for name, value in flags.items()])

    # ---- Celery

    def celery(self, command: str, queue: Queue, prefix: str, tasks: int,
               pool: str = "prefork", concurrency: int = 2) -> Command:
        script = pathlib.Path(__file__).parent / "peers/celery_peer.py"
        return Command([str(self._celery), str(script), command,
                        self._servers.amqp_url.rstrip("/") + "//",
                        self._servers.redis_url + "/0", queue.name, prefix or "-",
                        str(tasks), f"--pool={pool}", f"--concurrency={concurrency}"])

    # ---- ceilings

    def ceiling(self, mode: str, queue: Queue, **flags: object) -> Command:
        argv = [self._binary("penstock-bench-ceiling"), f"--mode={mode}",
                f"--amqp_port={self._servers.amqp_port}",
                f"--redis_port={self._servers.redis_port}",
                f"--queue={queue.name}", f"--quorum={str(queue.quorum).lower()}"]
        return Command(argv + [f"--{name}={value}" for name, value in flags.items()])

    def _binary(self, name: str) -> str:
        return str(self._binaries / name)

    def _environment(self, queue: Queue) -> dict[str, str]:
        environment = {
            "PENSTOCK_BROKER": self._servers.redis_url if queue.redis
                               else self._servers.amqp_url,
            "PENSTOCK_RESULT_BACKEND": self._servers.redis_url,
            "PENSTOCK_DEFAULT_QUEUE": queue.name,
            "PENSTOCK_AMQP_EXCHANGE": queue.name,
            "PENSTOCK_AMQP_BINDING_KEY": queue.name,
        }
        if queue.quorum:
            environment["PENSTOCK_AMQP_QUEUE_DECLARE_ARGS"] = "x-queue-type:quorum"
        return environment
