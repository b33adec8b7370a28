"""What is measured: each scenario with its variants, which take turns.

A variant is a function that takes a maker of cells and returns a Figure. A check
that fails raises, so that no figure comes of it.
"""

import contextlib
import dataclasses
from collections.abc import Callable

from cell import Cell, Figure

NewCell = Callable[..., contextlib.AbstractContextManager[Cell]]
Run = Callable[[NewCell], Figure]


@dataclasses.dataclass(frozen=True)
class Variant:
    key: str
    label: str
    run: Run
    rounds: int = 99  # at most so many of the run's rounds


@dataclasses.dataclass(frozen=True)
class Scenario:
    key: str
    title: str
    unit: str  # "tasks/s": more is better; "ms": less is
    variants: list[Variant]
    quick: bool = False  # part of a --quick run


# ---- what a cell does


def send(gateway: str, tasks: int, quorum: bool = False, redis: bool = False,
         **load_options: object) -> Run:
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
               **load_options: object) -> Run:
    """Tasks a second from the first send until the last SUCCESS is seen."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell(quorum=quorum, redis=redis) as cell:
            if gateway:
                cell.serve_gateway(gateway)
            cell.serve_worker(worker, concurrency, prefetch)
            cell.warm_up()
            load = cell.load(tasks, **load_options)
            with cell.measured():
                check = cell.begin_check(load)
                sent = cell.send(load)
                seconds = check.finish()["ended"] - sent["begun"]
            return cell.figure(tasks / seconds, tasks, seconds)
    return run


def drain(worker: str, concurrency: int, tasks: int, prefetch: int = 0,
          quorum: bool = False) -> Run:
    """Tasks a second of a full queue, from the start of a worker that is there to
    be started: its start is part of it, some 20 ms."""
    def run(new_cell: NewCell) -> Figure:
        with new_cell(quorum=quorum) as cell:
            cell.serve_gateway("penstock")
            cell.warm_up(worker=False)
            load = cell.load(tasks, shape="group", outstanding=8)
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


def percentiles(printed: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in printed.items() if name.endswith("_us")}


# ---- the scenarios


def unary(outstanding: int, tasks: int, quick: bool = False) -> Scenario:
    options = {"tasks": tasks, "outstanding": outstanding}
    return Scenario(
        f"unary-{outstanding}", f"SendTask, {outstanding} outstanding", "tasks/s", [
            Variant("penstock", "Penstock", send("penstock", **options)),
            Variant("go-gateway", "Go gateway", send("go", **options)),
            Variant("penstock-quorum", "Penstock, quorum",
                    send("penstock", quorum=True, **options)),
            Variant("go-gateway-quorum", "Go gateway, quorum",
                    send("go", quorum=True, **options)),
            Variant("machinery", "machinery in process", send("", **options)),
            Variant("echo", "gRPC echo alone", send("echo", **options)),
        ], quick)


def scenarios() -> list[Scenario]:
    bulk = {"shape": "group", "size": 50, "outstanding": 8}
    return [
        unary(64, 8000),
        unary(256, 8000, quick=True),
        Scenario("bulk", "50 tasks a call, 8 calls outstanding", "tasks/s", [
            Variant("group", "Penstock, SendGroup", send("penstock", 20000, **bulk)),
            Variant("go-gateway", "Go gateway, SendGroup", send("go", 12000, **bulk)),
            Variant("group-quorum", "Penstock, SendGroup, quorum",
                    send("penstock", 40000, quorum=True, **bulk)),
        ], quick=True),
        Scenario("e2e-unary", "End to end, 64 outstanding", "tasks/s", [
            Variant("penstock-10", "Penstock, concurrency 10",
                    end_to_end("penstock", "penstock", 10, 10000)),
            Variant("penstock-100", "Penstock, concurrency 100",
                    end_to_end("penstock", "penstock", 100, 10000)),
            Variant("machinery-10", "machinery, concurrency 10, prefetch 3",
                    end_to_end("", "machinery", 10, 5000, prefetch=3)),
            Variant("machinery-100", "machinery, concurrency 100, prefetch 100",
                    end_to_end("", "machinery", 100, 6000, prefetch=100)),
        ], quick=True),
        Scenario("drain", "Drain of a full queue", "tasks/s", [
            Variant("penstock-10", "Penstock, concurrency 10",
                    drain("penstock", 10, 30000)),
            Variant("penstock-100", "Penstock, concurrency 100",
                    drain("penstock", 100, 30000)),
            Variant("machinery-100", "machinery, concurrency 100, prefetch 100",
                    drain("machinery", 100, 10000, prefetch=100)),
        ], quick=True),
        Scenario("chord-1000", "Chord of 1,000", "ms", [
            Variant("penstock", "Penstock", chord("penstock", 1000, 5)),
            Variant("machinery", "machinery", chord("machinery", 1000, 1, 100, 100),
                    rounds=2),
        ], quick=True),
    ]
