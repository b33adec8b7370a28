"""What is measured: each scenario with its variants, which take turns.

A variant is a function that takes a maker of cells and returns a Figure. A check
that fails raises, so that no figure comes of it.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

from cell import Cell, Figure
from processes import Failed

NewCell = Callable[..., contextlib.AbstractContextManager[Cell]]
Run = Callable[[NewCell], Figure]


@dataclasses.dataclass(frozen=True)
class Variant:
    key: str
    label: str
    run: Run
    rounds: int = 99  # at most so many of the run's rounds
    quick: bool = False  # part of a --quick run


@dataclasses.dataclass(frozen=True)
class Scenario:
    key: str
    title: str
    unit: str  # "tasks/s": more is better; "ms": less is
    variants: list[Variant]


# ---- what a cell does


def send(gateway: str, tasks: int, quorum: bool = False, redis: bool = False,
         **load_options: Any) -> Run:
    """Tasks accepted a second. They are run and checked after the time is taken."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell(quorum=quorum, redis=redis) as cell:
            if gateway:
                cell.serve_gateway(gateway)
            cell.warm_up(worker=False)
            load = cell.load(tasks, **load_options)
            with cell.measured():
                sent = cell.send(load)
            figure = cell.figure(tasks / sent["seconds"], tasks, sent["seconds"],
                                 **percentiles(sent))
            if gateway != "echo":
                cell.drain(load)
            return figure
    return run


def end_to_end(gateway: str, worker: str, concurrency: int, tasks: int,
               prefetch: int = 0, quorum: bool = False, redis: bool = False,
               queues: int = 0, **load_options: Any) -> Run:
    """Tasks a second from the first send until the last SUCCESS is seen."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell(quorum=quorum, redis=redis) as cell:
            if gateway:
                cell.serve_gateway(gateway)
            cell.serve_worker(worker, concurrency, prefetch, queues=queues)
            cell.warm_up()
            load = cell.load(tasks, queues=queues, **load_options)
            with cell.measured():
                check = cell.begin_check(load)
                sent = cell.send(load)
                seconds = check.finish()["ended"] - sent["begun"]
            return cell.figure(tasks / seconds, tasks, seconds)
    return run


def drain(worker: str, concurrency: int, tasks: int, prefetch: int = 0,
          quorum: bool = False) -> Run:
    """Tasks a second of a full queue. The start of the worker is part of it: tens
    of milliseconds."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell(quorum=quorum) as cell:
            cell.serve_gateway("penstock")
            cell.warm_up(worker=False)
            load = cell.load(tasks, shape="batch", outstanding=8)
            cell.send(load)
            cell.forget_clients()
            with cell.measured():
                cell.serve_worker(worker, concurrency, prefetch)
                checked = cell.begin_check(load).finish()
            return cell.figure(tasks / checked["seconds"], tasks, checked["seconds"])
    return run


def chord(worker: str, size: int, times: int, concurrency: int = 10,
          prefetch: int = 0) -> Run:
    """Milliseconds from the send of a chord to its callback's result in the hands
    of the client; the median of `times`, one after the other."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell() as cell:
            if worker == "penstock":
                cell.serve_gateway("penstock")
            cell.serve_worker(worker, concurrency, prefetch)
            cell.warm_up()
            load = cell.load(size * times, shape="chord", size=size)
            with cell.measured():
                took = cell.send(load)
            return cell.figure(took["p50_us"] / 1000, size * times, took["seconds"])
    return run


def group_call(gateway: str, size: int, times: int) -> Run:
    """Milliseconds of one SendGroup, the median of `times`, one after the other."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell() as cell:
            if gateway:
                cell.serve_gateway(gateway)
            cell.warm_up(worker=False)
            load = cell.load(size * times, shape="group", size=size, outstanding=1)
            with cell.measured():
                sent = cell.send(load)
            figure = cell.figure(sent["p50_us"] / 1000, load.tasks, sent["seconds"],
                                 **percentiles(sent))
            cell.drain(load)
            return figure
    return run


def latency(worker: str, tasks: int, rate: float = 0, concurrency: int = 10,
            prefetch: int = 0, shape: str = "latency") -> Run:
    """Milliseconds from the send of one task to its result in the client's hands,
    one after the other; with `rate` while others are sent at that rate."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell() as cell:
            if worker == "penstock":
                cell.serve_gateway("penstock")
            cell.serve_worker(worker, concurrency, prefetch)
            cell.warm_up()
            others = cell.load(int(rate * 4), rate=rate)
            background = cell.begin("load", cell.sender(others)) if rate else None
            load = cell.load(tasks, shape=shape)
            with cell.measured():
                took = cell.send(load)
            if background:
                background.finish()
                cell.check(others)
            return cell.figure(took["p50_us"] / 1000, tasks, took["seconds"],
                               **percentiles(took))
    return run


def waiters(tasks: int) -> Run:
    """So many clients wait, each for its task; then a worker starts. Milliseconds
    from the end of a task to its result in the client's hands, p99."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell() as cell:
            cell.serve_gateway("penstock")
            cell.warm_up(worker=False)
            load = cell.load(tasks, shape="batch", outstanding=8)
            cell.send(load)
            cell.forget_clients()
            waiting = cell.begin("client", cell.sender(load.waited_for()))
            if waiting.read_line() != "open":
                raise Failed("the waiters did not begin")
            time.sleep(1)  # so that the gateway has taken all of them
            with cell.measured():
                cell.serve_worker("penstock", 100)
                took = waiting.finish()
            return cell.figure(took["p99_us"] / 1000, tasks, took["seconds"],
                               **percentiles(took))
    return run


def delayed(tasks: int, quorum: bool = False, redis: bool = False) -> Run:
    """Tasks that fall due within one second: milliseconds that they run late, p99.
    One that runs before it is due fails the check."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell(quorum=quorum, redis=redis) as cell:
            cell.serve_gateway("penstock")
            cell.serve_worker("penstock", 100)
            cell.warm_up()
            due = time.time() + 8
            load = cell.load(tasks, shape="batch", outstanding=8, task="now", due=due,
                             span=1)
            sent = cell.send(load)
            if sent["ended"] > due:
                raise Failed("not all tasks were sent before the first was due")
            cell.forget_clients()
            with cell.measured():
                late = cell.begin_check(load).finish()
            return cell.figure(late["p99_us"] / 1000, tasks, late["ended"] - due,
                               **percentiles(late))
    return run


def asynq(tasks: int, concurrency: int, keep: str = "true") -> Run:
    """End to end: enqueued by 64 goroutines, run, completed; results are kept, or
    only counted, which is asynq's default."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell(redis=True) as cell:
            go = cell.systems.go
            cell.serve("worker", go("asynq-worker", cell.queue, keep=keep,
                                        concurrency=concurrency))
            time.sleep(0.5)  # until it has connected
            load = cell.load(tasks)
            with cell.measured():
                sending = cell.begin("client", go(
                    "asynq-send", cell.queue, prefix=load.prefix, tasks=tasks,
                    keep=keep, outstanding=64))
                checked = cell.begin("check", go(
                    "asynq-await", cell.queue, prefix=load.prefix, tasks=tasks,
                    keep=keep)).finish()
                sent = sending.finish()
            seconds = checked["ended"] - sent["begun"]
            return cell.figure(tasks / seconds, tasks, seconds)
    return run


def celery(tasks: int, pool: str, concurrency: int) -> Run:
    """End to end, sent by one process."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell() as cell:
            command = cell.systems.celery
            cell.serve("worker", command("worker", cell.queue, "", 0, pool=pool,
                                         concurrency=concurrency))
            warm = cell.load(100)
            for step in ("send", "await"):
                cell.begin("warm", command(step, cell.queue, warm.prefix, 100)).finish()
            cell.forget_clients()
            load = cell.load(tasks)
            with cell.measured():
                check = cell.begin("check", command("await", cell.queue, load.prefix, tasks))
                sent = cell.begin("client", command("send", cell.queue, load.prefix,
                                                    tasks)).finish()
                seconds = check.finish()["ended"] - sent["begun"]
            return cell.figure(tasks / seconds, tasks, seconds)
    return run


def celery_send(tasks: int) -> Run:
    def run(new_cell: NewCell) -> Figure:
        with new_cell() as cell:
            load = cell.load(tasks)
            with cell.measured():
                sent = cell.begin("client", cell.systems.celery(
                    "send", cell.queue, load.prefix, tasks)).finish()
            figure = cell.figure(tasks / sent["seconds"], tasks, sent["seconds"])
            cell.serve("drain", cell.systems.celery("worker", cell.queue, "", 0))
            cell.begin("check", cell.systems.celery("await", cell.queue, load.prefix,
                                                    tasks)).finish()
            return figure
    return run


def celery_chord(size: int) -> Run:
    def run(new_cell: NewCell) -> Figure:
        with new_cell() as cell:
            command = cell.systems.celery
            cell.serve("worker", command("worker", cell.queue, "", 0))
            cell.begin("warm", command("chord", cell.queue, "", 10)).finish()
            cell.forget_clients()
            with cell.measured():
                took = cell.begin("client", command("chord", cell.queue, "", size)).finish()
            return cell.figure(took["seconds"] * 1000, size, took["seconds"])
    return run


def ceiling(mode: str, tasks: int, quorum: bool = False, **flags: object) -> Run:
    """Messages published or SETs a second; what was published is dropped."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell(quorum=quorum) as cell:
            with cell.measured():
                did = cell.begin("client", cell.systems.ceiling(
                    mode, cell.queue, tasks=tasks, **flags)).finish()
            return cell.figure(tasks / did["seconds"], tasks, did["seconds"])
    return run


def consume_ceiling(tasks: int, quorum: bool = False) -> Run:
    def run(new_cell: NewCell) -> Figure:
        with new_cell(quorum=quorum) as cell:
            command = cell.systems.ceiling
            cell.begin("fill", command("publish", cell.queue, tasks=tasks)).finish()
            cell.forget_clients()
            with cell.measured():
                did = cell.begin("client", command("consume", cell.queue,
                                                   tasks=tasks)).finish()
            return cell.figure(tasks / did["seconds"], tasks, did["seconds"])
    return run


def percentiles(printed: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in printed.items() if name.endswith("_us")}


# ---- the scenarios

BATCH: dict[str, Any] = {"shape": "batch", "size": 50, "outstanding": 8}
GROUP: dict[str, Any] = {"shape": "group", "size": 50, "outstanding": 8}
STREAM: dict[str, Any] = {"shape": "stream", "size": 100, "outstanding": 1024}
SINGLES: dict[str, Any] = {"shape": "stream", "size": 1, "outstanding": 1024}
DEFAULTS = "machinery, concurrency 10, prefetch 3"
BEST = "machinery, concurrency 100, prefetch 100"


def unary(outstanding: int, tasks: int) -> Scenario:
    options: dict[str, Any] = {"tasks": tasks, "outstanding": outstanding}
    quick = outstanding == 256
    more = []
    if outstanding == 1:
        more = [Variant("celery", "Celery", celery_send(1500))]
    return Scenario(
        f"unary-{outstanding}", f"SendTask, {outstanding} outstanding", "tasks/s", [
            Variant("penstock", "Penstock", send("penstock", **options), quick=quick),
            Variant("go-gateway", "Go gateway", send("go", **options), quick=quick),
            Variant("penstock-quorum", "Penstock, quorum",
                    send("penstock", quorum=True, **options)),
            Variant("go-gateway-quorum", "Go gateway, quorum",
                    send("go", quorum=True, **options)),
            Variant("machinery", "machinery in process", send("", **options)),
            Variant("echo", "gRPC echo alone", send("echo", **options)),
            *more,
        ])


def bulk() -> Scenario:
    return Scenario("bulk", "Sent in bulk: 50 tasks a call, 8 calls outstanding", "tasks/s", [
        Variant("batch", "BatchSendTasks", send("penstock", 25000, **BATCH), quick=True),
        Variant("publish", "publish alone", ceiling("publish", 25000), quick=True),
        Variant("stream", "StreamTasks, 1,024 outstanding, up to 100 a message",
                send("penstock", 25000, **STREAM)),
        Variant("stream-singles", "StreamTasks, a message for each task",
                send("penstock", 25000, **SINGLES)),
        Variant("go-gateway", "Go gateway, SendGroup", send("go", 10000, **GROUP), quick=True),
        Variant("batch-quorum", "BatchSendTasks, quorum",
                send("penstock", 40000, quorum=True, **BATCH), quick=True),
        Variant("publish-quorum", "publish alone, quorum",
                ceiling("publish", 60000, quorum=True), quick=True),
        Variant("stream-quorum", "StreamTasks, up to 100 a message, quorum",
                send("penstock", 40000, quorum=True, **STREAM)),
        Variant("stream-singles-quorum", "StreamTasks, a message for each task, quorum",
                send("penstock", 40000, quorum=True, **SINGLES)),
        Variant("group", "Penstock, SendGroup", send("penstock", 25000, **GROUP)),
        Variant("group-quorum", "Penstock, SendGroup, quorum",
                send("penstock", 40000, quorum=True, **GROUP)),
        Variant("go-gateway-quorum", "Go gateway, SendGroup, quorum",
                send("go", 15000, quorum=True, **GROUP)),
    ])


def group(size: int, times: int) -> Scenario:
    return Scenario(f"group-{size}", f"SendGroup of {size:,}", "ms", [
        Variant("penstock", "Penstock", group_call("penstock", size, times)),
        Variant("go-gateway", "Go gateway", group_call("go", size, times)),
        Variant("machinery", "machinery in process", group_call("", size, times)),
    ])


def machinery_end_to_end() -> list[Variant]:
    """What both scenarios of end to end are set against."""
    return [
        Variant("machinery-10", DEFAULTS,
                end_to_end("", "machinery", 10, 5000, prefetch=3)),
        Variant("machinery-100", BEST,
                end_to_end("", "machinery", 100, 7000, prefetch=100), quick=True),
    ]


def end_to_end_unary() -> Scenario:
    return Scenario("e2e-unary", "End to end, SendTask, 64 outstanding", "tasks/s", [
        Variant("penstock-100", "Penstock, concurrency 100",
                end_to_end("penstock", "penstock", 100, 12000), quick=True),
        Variant("penstock-10", "Penstock, concurrency 10",
                end_to_end("penstock", "penstock", 10, 12000)),
        *machinery_end_to_end(),
        Variant("penstock-quorum-100", "Penstock, quorum, concurrency 100",
                end_to_end("penstock", "penstock", 100, 12000, quorum=True)),
        Variant("machinery-quorum-100", f"{BEST}, quorum",
                end_to_end("", "machinery", 100, 7000, prefetch=100, quorum=True)),
        Variant("go-gateway-100", "Go gateway, machinery's worker, 100, 100",
                end_to_end("go", "machinery", 100, 6000, prefetch=100)),
        Variant("celery-prefork", "Celery, prefork, concurrency 2",
                celery(2000, "prefork", 2)),
        Variant("celery-threads", "Celery, threads, concurrency 10",
                celery(2000, "threads", 10)),
    ])


def end_to_end_bulk() -> Scenario:
    def penstock(concurrency: int, load: dict[str, Any], quorum: bool = False) -> Run:
        return end_to_end("penstock", "penstock", concurrency, 30000, quorum=quorum, **load)
    return Scenario("e2e-bulk", "End to end in bulk", "tasks/s", [
        Variant("batch-quorum-100", "BatchSendTasks, quorum, concurrency 100",
                penstock(100, BATCH, quorum=True), quick=True),
        *machinery_end_to_end(),
        Variant("batch-quorum-10", "BatchSendTasks, quorum, concurrency 10",
                penstock(10, BATCH, quorum=True)),
        Variant("batch-100", "BatchSendTasks, classic, concurrency 100",
                penstock(100, BATCH)),
        Variant("stream-quorum-100", "StreamTasks, quorum, concurrency 100",
                penstock(100, STREAM, quorum=True)),
        Variant("stream-100", "StreamTasks, classic, concurrency 100",
                penstock(100, STREAM)),
    ])


def drains() -> Scenario:
    return Scenario("drain", "Drain of a full queue", "tasks/s", [
        Variant("penstock-100", "Penstock, concurrency 100",
                drain("penstock", 100, 30000), quick=True),
        Variant("machinery-100", BEST,
                drain("machinery", 100, 10000, prefetch=100), quick=True),
        Variant("penstock-10", "Penstock, concurrency 10", drain("penstock", 10, 30000)),
        Variant("penstock-quorum-100", "Penstock, quorum, concurrency 100",
                drain("penstock", 100, 30000, quorum=True)),
        Variant("machinery-quorum-100", f"{BEST}, quorum",
                drain("machinery", 100, 10000, prefetch=100, quorum=True)),
        Variant("consume", "consume alone", consume_ceiling(40000)),
        Variant("consume-quorum", "consume alone, quorum",
                consume_ceiling(40000, quorum=True)),
    ])


def chords(size: int, times: int) -> Scenario:
    """machinery's time grows with the square of the size: 40 s at 2,000."""
    quick = size == 1000
    variants = [Variant("penstock", "Penstock", chord("penstock", size, times),
                        quick=quick)]
    if size <= 2000:
        variants.append(Variant(
            "machinery", "machinery",
            chord("machinery", size, min(times, max(1, 200 // size)), 100, 100),
            rounds=1 if size >= 2000 else 2 if size >= 1000 else 99, quick=quick))
    if size == 1000:
        variants.append(Variant("celery", "Celery", celery_chord(size)))
    return Scenario(f"chord-{size}", f"Chord of {size:,}", "ms", variants)


def redis_broker() -> Scenario:
    def penstock(tasks: int, **load: Any) -> Run:
        return end_to_end("penstock", "penstock", 100, tasks, redis=True, **load)
    return Scenario("redis-e2e", "End to end, Redis is the broker", "tasks/s", [
        Variant("batch", "Penstock, BatchSendTasks", penstock(30000, **BATCH)),
        Variant("asynq", "asynq, concurrency 100", asynq(12000, 100)),
        Variant("asynq-bare", "asynq, concurrency 100, no results kept",
                asynq(12000, 100, keep="false")),
        Variant("asynq-10", "asynq, concurrency 10", asynq(12000, 10)),
        Variant("unary", "Penstock, SendTask, 64 outstanding", penstock(12000)),
        Variant("stream", "Penstock, StreamTasks", penstock(30000, **STREAM)),
        Variant("machinery", "machinery, concurrency 100",
                end_to_end("", "machinery", 100, 3000, prefetch=100, redis=True)),
        Variant("set", "pipelined SETs alone", ceiling("redis", 300000, window=256)),
    ])


def scenarios() -> list[Scenario]:
    return [
        unary(1, 1500), unary(16, 8000), unary(64, 10000), unary(256, 10000),
        bulk(),
        group(10, 100), group(100, 30), group(1000, 8), group(10000, 2),
        end_to_end_unary(), end_to_end_bulk(), drains(),
        chords(10, 50), chords(100, 20), chords(1000, 5), chords(2000, 3),
        chords(10000, 1),
        Scenario("latency", "One task at a time, send to result", "ms", [
            Variant("penstock", "Penstock", latency("penstock", 1000), quick=True),
            Variant("penstock-two-calls", "Penstock, SendTask, then GetState",
                    latency("penstock", 1000, shape="latency-two-calls")),
            Variant("machinery", "machinery, polled each ms", latency(
                "machinery", 1000, concurrency=10, prefetch=3), quick=True),
        ]),
        Scenario("latency-loaded", "The same while 1,000 others a second are sent", "ms", [
            Variant("penstock", "Penstock", latency("penstock", 500, 1000)),
            Variant("machinery", "machinery, polled each ms", latency(
                "machinery", 500, 1000, concurrency=100, prefetch=100)),
            Variant("penstock-2500", "Penstock, 2,500 others a second",
                    latency("penstock", 500, 2500)),
        ]),
        Scenario("waiters", "10,000 clients wait, each for its task", "ms", [
            Variant("penstock", "Penstock, end of the task to its result, p99",
                    waiters(10000)),
            Variant("penstock-1000", "the same with 1,000", waiters(1000))]),
        Scenario("delayed", "20,000 delayed tasks fall due in one second", "ms", [
            Variant("penstock", "Penstock, lateness, p99", delayed(20000)),
            Variant("penstock-quorum", "Penstock, quorum, lateness, p99",
                    delayed(20000, quorum=True)),
            Variant("penstock-redis", "Penstock, Redis is the broker, lateness, p99",
                    delayed(20000, redis=True)),
        ]),
        Scenario("retries", "Tasks that fail once and are tried again after 1 s", "tasks/s", [
            Variant("penstock", "Penstock", end_to_end(
                "penstock", "penstock", 100, 10000, task="flaky", retries=1)),
            Variant("machinery", BEST, end_to_end(
                "", "machinery", 100, 300, prefetch=100, task="flaky", retries=1)),
        ]),
        redis_broker(),
        Scenario("queues", "End to end in bulk, one worker of many queues", "tasks/s", [
            Variant(f"penstock-{queues}", f"Penstock, {queues} queues", end_to_end(
                "penstock", "penstock", 100, 20000, queues=queues, **BATCH))
            for queues in (1, 10, 100)]),
    ]
