"""Celery as a peer of the bench: RabbitMQ as its broker, Redis for results.

    celery_peer.py send|await|chord|worker BROKER BACKEND QUEUE PREFIX TASKS
                   [--pool=POOL] [--concurrency=N]

Messages are persistent and confirmed, acks come after the outcome, and results are
kept, as with Penstock and machinery. All but worker print one line of JSON.
"""

import argparse
import json
import time

import celery
import redis

PATIENCE = 180
BATCH = 256

app = celery.Celery("bench")


@app.task(name="add")
def add(*numbers: int) -> int:
    return sum(numbers)


@app.task(name="total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


def configure(options: argparse.Namespace) -> None:
    app.conf.update(
        broker_url=options.broker, result_backend=options.backend,
        task_default_queue=options.queue, task_acks_late=True,
        broker_transport_options={"confirm_publish": True},
        worker_prefetch_multiplier=32, worker_hijack_root_logger=False)


def show(tasks: int, begun: float) -> None:
    ended = time.time()
    print(json.dumps({"tasks": tasks, "seconds": ended - begun, "begun": begun,
                      "ended": ended}))


def send(options: argparse.Namespace) -> None:
    begun = time.time()
    for number in range(options.tasks):
        add.apply_async((number, 1), task_id=f"{options.prefix}-{number}")
    show(options.tasks, begun)


def await_results(options: argparse.Namespace) -> None:
    """Reads the states as penstock-bench-check does, and checks each result."""
    store = redis.Redis.from_url(options.backend)
    waiting = list(range(options.tasks))
    begun = time.time()
    while waiting:
        some, waiting = waiting[:BATCH], waiting[BATCH:]
        states = store.mget([f"celery-task-meta-{options.prefix}-{n}" for n in some])
        still = [n for n, state in zip(some, states) if not has_ended(n, state)]
        waiting = still + waiting
        if len(still) > BATCH / 2:
            time.sleep(0.005)
        if time.time() > begun + PATIENCE:
            raise SystemExit(f"{len(waiting)} tasks have not ended")
    show(options.tasks, begun)


def has_ended(number: int, state: bytes | None) -> bool:
    if state is None:
        return False
    found = json.loads(state)
    if found["status"] != "SUCCESS" or found["result"] != number + 1:
        raise SystemExit(f"{number}: {found}")
    return True


def chord(options: argparse.Namespace) -> None:
    begun = time.time()
    result = celery.chord(add.s(n, 1) for n in range(options.tasks))(total.s())
    if result.get(timeout=PATIENCE) != sum(range(options.tasks + 1)):
        raise SystemExit("the chord has a wrong result")
    show(options.tasks, begun)


def work(options: argparse.Namespace) -> None:
    app.worker_main(["worker", f"--pool={options.pool}", "--loglevel=ERROR",
                     f"--concurrency={options.concurrency}", "--without-gossip",
                     "--without-mingle", "--without-heartbeat"])


COMMANDS = {"send": send, "await": await_results, "chord": chord, "worker": work}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=COMMANDS)
    for name in ("broker", "backend", "queue", "prefix"):
        parser.add_argument(name)
    parser.add_argument("tasks", type=int)
    parser.add_argument("--pool", default="prefork")
    parser.add_argument("--concurrency", type=int, default=2)
    options = parser.parse_args()
    configure(options)
    COMMANDS[options.command](options)


if __name__ == "__main__":
    main()
