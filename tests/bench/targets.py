"""The targets of the bench, in one place. Each is a value, or a ratio of two, taken
within each round; the report says what was measured and whether it is reached.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of a cell: its value, or what one of its processes used."""
    cell: str  # SCENARIO/VARIANT
    what: str = "value"  # value, cpu:PROCESS (us a task), rss:PROCESS (MB), or a detail


@dataclasses.dataclass(frozen=True)
class Target:
    text: str
    metric: Metric
    wanted: float
    at_least: bool = True
    over: Metric | None = None  # the ratio to this one

    def wanted_text(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.wanted:g}"

    def is_reached(self, measured: float) -> bool:
        return measured >= self.wanted if self.at_least else measured <= self.wanted


def ratio(text: str, cell: str, over: str, wanted: float, what: str = "value",
          at_least: bool = True) -> Target:
    return Target(text, Metric(cell, what), wanted, at_least, Metric(over, what))


def at_most(text: str, cell: str, what: str, wanted: float) -> Target:
    return Target(text, Metric(cell, what), wanted, at_least=False)


TARGETS = [
    ratio("SendTask, 256 outstanding, over the Go gateway, classic",
          "unary-256/penstock", "unary-256/go-gateway", 1.4),
    ratio("the same on quorum queues",
          "unary-256/penstock-quorum", "unary-256/go-gateway-quorum", 1.4),
    ratio("gateway CPU a task over the Go gateway's, SendTask, 256 outstanding",
          "unary-256/penstock", "unary-256/go-gateway", 0.6, "cpu:gateway", False),
    ratio("BatchSendTasks, 50 a call, of the publish ceiling, classic",
          "bulk/batch", "bulk/publish", 0.85),
    ratio("the same on quorum queues",
          "bulk/batch-quorum", "bulk/publish-quorum", 0.85),
    ratio("StreamTasks of the publish ceiling, classic",
          "bulk/stream", "bulk/publish", 0.85),
    ratio("the same on quorum queues",
          "bulk/stream-quorum", "bulk/publish-quorum", 0.85),
    ratio("bulk over the Go gateway's SendGroup on classic",
          "bulk/batch", "bulk/go-gateway", 1.6),
    ratio("bulk on quorum over the Go gateway's SendGroup on classic",
          "bulk/batch-quorum", "bulk/go-gateway", 3),
    at_most("gateway CPU a task, us: SendTask", "unary-256/penstock",
            "cpu:gateway", 55),
    at_most("gateway CPU a task, us: bulk", "bulk/batch", "cpu:gateway", 8),
    at_most("worker CPU a no-op task, us", "drain/penstock-100", "cpu:worker", 25),
    ratio("end to end, SendTask, over machinery at its defaults (10, 3)",
          "e2e-unary/penstock-10", "e2e-unary/machinery-10", 3),
    ratio("end to end, SendTask, over machinery at its best (100, 100)",
          "e2e-unary/penstock-100", "e2e-unary/machinery-100", 1.8),
    ratio("end to end in bulk on quorum over machinery at its defaults",
          "e2e-bulk/batch-quorum-10", "e2e-bulk/machinery-10", 5),
    ratio("end to end in bulk on quorum over machinery at its best",
          "e2e-bulk/batch-quorum-100", "e2e-bulk/machinery-100", 3),
    ratio("drain over machinery at its best, classic",
          "drain/penstock-100", "drain/machinery-100", 4.5),
    ratio("the same on quorum queues",
          "drain/penstock-quorum-100", "drain/machinery-quorum-100", 4.5),
    # Times: theirs over ours.
    ratio("chord of 2,000: machinery's time over ours",
          "chord-2000/machinery", "chord-2000/penstock", 60),
    ratio("chord: time of 10,000 over time of 1,000",
          "chord-10000/penstock", "chord-1000/penstock", 12, at_least=False),
    ratio("latency of one task, p50, over machinery polling each ms",
          "latency/penstock", "latency/machinery", 1.0, "p50_us", False),
    ratio("latency of one task, p99, over machinery polling each ms",
          "latency/penstock", "latency/machinery", 0.5, "p99_us", False),
    at_most("RSS under full load, MB: gateway", "e2e-bulk/batch-quorum-100",
            "rss:gateway", 48),
    at_most("RSS under full load, MB: worker", "e2e-bulk/batch-quorum-100",
            "rss:worker", 20),
    ratio("Redis broker, end to end in bulk, over asynq",
          "redis-e2e/batch", "redis-e2e/asynq", 2),
    at_most("20,000 delayed tasks due in one second: lateness p99, ms",
            "delayed/penstock", "value", 1500),
]
