"""What to run: Task, its options, and the requests that send tasks."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import uuid
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Union,
)

from google.protobuf import duration_pb2, timestamp_pb2

from penstock.errors import CallError, call_error
from penstock.v1 import gateway_pb2, messages_pb2
from penstock.values import to_message

Seconds = Union[int, float, datetime.timedelta]

# The limits of BatchSendTasks: tasks, and bytes with room for the rest.
MAX_BATCH = 1000
MAX_BATCH_BYTES = 60 << 20
# Of tasks that share a message of a stream: gateways take 64 MiB, and that much in
# one message is no cheaper than in several.
MAX_SHARED_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Retries that wait ever longer: `first_delay`, then `factor` times that, ..."""

    first_delay: Seconds  # 1 ms to 30 days
    factor: float = 2.0  # 1 to 100
    max_delay: Optional[Seconds] = None  # None: 1 hour, or first_delay if longer
    jitter: float = 0.0  # 0 to 1: by which share each pause varies


class Task:
    """A task: the name of its handler, its arguments, and its options.

        Task("add", 1, 1, delay=60, retry_count=3)

    Times are in seconds or a timedelta. Task in messages.proto has the limits.

    id: its id. Default: the gateway makes one.
    routing_key: which queue. Default: the default queue.
    eta: not before this time; a datetime without a zone is local time.
    delay: not before so long after it was sent. Not with eta.
    retry_count: how often a failed run is tried again. Default 0.
    retry_delay: how long the first retry waits; later ones wait longer. Default 1 s.
    exponential_backoff: how long retries wait, in place of retry_delay.
    priority: 0 to 255, where the queue knows priorities. Default 0.
    immutable: its results are not passed on to what follows it; as the callback of a
        chord: it takes no results. Default False.
    headers: texts that travel with it to the handler.
    on_success: tasks that are sent with its results when it succeeded.
    on_error: tasks that are sent with the text of its error when it failed.
    ignore_when_task_not_registered: a worker that does not know its name drops it.
    timeout: how long one attempt may run. Default: no limit.
    expire_after: it fails if it has not begun by then. Default: never.
    unique_key: while a task of this key is not final, another one is refused.
    result_ttl: how long its final state is kept. Default: as the worker says.
    """

    def __init__(
        self,
        name: str,
        *args: Any,
        id: str = "",  # pylint: disable=redefined-builtin
        routing_key: str = "",
        eta: Optional[datetime.datetime] = None,
        delay: Optional[Seconds] = None,
        retry_count: int = 0,
        retry_delay: Optional[Seconds] = None,
        exponential_backoff: Optional[Backoff] = None,
        priority: int = 0,
        immutable: bool = False,
        headers: Optional[Mapping[str, str]] = None,
        on_success: Sequence[Task] = (),
        on_error: Sequence[Task] = (),
        ignore_when_task_not_registered: bool = False,
        timeout: Optional[Seconds] = None,
        expire_after: Optional[Seconds] = None,
        unique_key: str = "",
        result_ttl: Optional[Seconds] = None,
    ) -> None:
        if eta is not None and delay is not None:
            raise ValueError("a task has an eta or a delay, not both")
        self.name = name
        self.args = args
        self.id = id
        self.routing_key = routing_key
        self.eta = eta
        self.delay = delay
        self.retry_count = retry_count
        self.retry_delay = retry_delay
        self.exponential_backoff = exponential_backoff
        self.priority = priority
        self.immutable = immutable
        self.headers = dict(headers or {})
        self.on_success = on_success
        self.on_error = on_error
        self.ignore_when_task_not_registered = ignore_when_task_not_registered
        self.timeout = timeout
        self.expire_after = expire_after
        self.unique_key = unique_key
        self.result_ttl = result_ttl

    def __repr__(self) -> str:
        words = [repr(self.name), *map(repr, self.args)]
        if self.id:
            words.append(f"id={self.id!r}")
        return f"Task({', '.join(words)})"

    def to_message(self) -> messages_pb2.Task:
        """The message of it. Raises TypeError or ValueError for a bad argument."""
        message = messages_pb2.Task(
            name=self.name,
            args=[_argument(value, position, self.name)
                  for position, value in enumerate(self.args, 1)],
            id=self.id,
            routing_key=self.routing_key,
            delay=_duration(self.delay),
            retry_count=self.retry_count,
            retry_delay=_duration(self.retry_delay),
            priority=self.priority,
            immutable=self.immutable,
            headers=self.headers,
            on_success=[task.to_message() for task in self.on_success],
            on_error=[task.to_message() for task in self.on_error],
            ignore_when_task_not_registered=self.ignore_when_task_not_registered,
            timeout=_duration(self.timeout),
            expire_after=_duration(self.expire_after),
            unique_key=self.unique_key,
            result_ttl=_duration(self.result_ttl),
        )
        if self.eta is not None:
            moment = self.eta.astimezone(datetime.timezone.utc)
            message.eta.CopyFrom(_timestamp(moment))
        if self.exponential_backoff is not None:
            backoff = self.exponential_backoff
            message.exponential_backoff.CopyFrom(messages_pb2.ExponentialBackoff(
                first_delay=_duration(backoff.first_delay),
                factor=backoff.factor,
                max_delay=_duration(backoff.max_delay),
                jitter=backoff.jitter))
        return message


class Sent(NamedTuple):
    """What became of a task of a stream: it has a handle, or an error."""

    index: int  # the how manieth of the stream it is, from 0
    task: Task
    handle: Any  # a TaskHandle, or None
    error: Optional[CallError]


def task_of(task: Union[str, Task], args: tuple[Any, ...]) -> Task:
    """The task of send(name, *args) and of send(task)."""
    if isinstance(task, str):
        return Task(task, *args)
    if args:
        raise TypeError("the arguments of a Task are its own: give none beside it")
    return task


def new_request_id() -> str:
    return str(uuid.uuid4())


def with_own_id(message: messages_pb2.Task) -> messages_pb2.Task:
    """Gives a task that has no id one, so that it may be sent again."""
    if not message.id:
        message.id = f"task_{uuid.uuid4()}"
    return message


def batches(
    tasks: Iterable[Task], request_id: str
) -> Iterator[gateway_pb2.BatchSendTasksRequest]:
    """The tasks in as many requests as it takes."""
    # All before the first is sent: a bad argument is found before any call.
    messages = [task.to_message() for task in tasks]
    begin = 0
    while begin < len(messages):
        end, size = begin, 0
        while end < len(messages) and end - begin < MAX_BATCH:
            size += messages[end].ByteSize() + 8
            if size > MAX_BATCH_BYTES and end > begin:
                break
            end += 1
        yield gateway_pb2.BatchSendTasksRequest(
            tasks=messages[begin:end],
            request_id=request_id if end - begin == len(messages)
            else f"{request_id}.{begin}")
        begin = end


def next_message(
    ready: collections.deque[gateway_pb2.StreamTask], most: int
) -> gateway_pb2.StreamTasksRequest:
    """Takes the next tasks of a stream, at most so many of those that are ready."""
    tasks: list[gateway_pb2.StreamTask] = []
    size = 0
    while ready and len(tasks) < most:
        size += ready[0].ByteSize()
        if tasks and size > MAX_SHARED_BYTES:
            break
        tasks.append(ready.popleft())
    if len(tasks) > 1:
        return gateway_pb2.StreamTasksRequest(tasks=tasks)
    return gateway_pb2.StreamTasksRequest(sequence=tasks[0].sequence, task=tasks[0].task)


def take_answer(
    answer: gateway_pb2.StreamTasksResponse,
    unanswered: dict[int, tuple[Task, gateway_pb2.StreamTask]],
    handle: Callable[[str, bool], Any],
) -> tuple[list[Sent], Optional[CallError]]:
    """What became of tasks, which are unanswered no more; and why others go again."""
    told: list[Sent] = []
    again: Optional[CallError] = None
    outcomes: list[Union[gateway_pb2.StreamTasksResponse, gateway_pb2.StreamTaskResult]]
    outcomes = [answer, *answer.results]
    for outcome in outcomes:
        if outcome.WhichOneof("outcome") is None:
            continue
        error = call_error(outcome.status) if outcome.HasField("status") else None
        if error is not None and error.retryable:
            again = again or error
            continue
        known = unanswered.pop(outcome.sequence, None)
        if known is None:  # it was answered before
            continue
        sent = handle(outcome.task_id, outcome.replayed) if error is None else None
        told.append(Sent(outcome.sequence, known[0], sent, error))
    return told, again


def _argument(value: Any, position: int, name: str) -> messages_pb2.Value:
    try:
        return to_message(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"argument {position} of {name!r}: {error}") from None


def _duration(value: Optional[Seconds]) -> Optional[duration_pb2.Duration]:
    if value is None:
        return None
    if not isinstance(value, datetime.timedelta):
        value = datetime.timedelta(seconds=value)
    message = duration_pb2.Duration()
    message.FromTimedelta(value)
    return message


def _timestamp(moment: datetime.datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message
