"""How tasks and groups stand."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from typing import Any, Optional

from google.protobuf import timestamp_pb2

from penstock.errors import NoResult, TaskCancelled, TaskFailed
from penstock.v1 import messages_pb2 as pb
from penstock.values import from_message, result_of


class Status(enum.Enum):
    """Where a task stands."""

    UNKNOWN = 0  # one that this version does not know, or a state that has expired
    PENDING = 1  # it waits for a worker, for its time, or for what comes before it
    RECEIVED = 2  # a Go worker has taken it
    STARTED = 3  # its handler runs
    RETRY = 4  # a run failed; another one follows
    SUCCESS = 5
    FAILURE = 6
    CANCELLED = 7

    @property
    def final(self) -> bool:
        """Whether it stays so."""
        return self in (Status.SUCCESS, Status.FAILURE, Status.CANCELLED)

    @classmethod
    def _missing_(cls, value: object) -> Status:
        return cls.UNKNOWN


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a running handler says that it has come."""

    fraction: float  # from 0 to 1
    text: str
    update_time: Optional[datetime.datetime]


@dataclasses.dataclass(frozen=True)
class State:
    """How a task stands. What is not known is empty or None."""

    task_id: str
    status: Status
    results: list[Any]  # all that it returned, in order; with SUCCESS
    error_message: str  # with FAILURE, CANCELLED and RETRY
    error_type: str
    name: str
    create_time: Optional[datetime.datetime]
    start_time: Optional[datetime.datetime]
    finish_time: Optional[datetime.datetime]
    attempt: int  # from 1; 0: it has not run
    next_attempt_time: Optional[datetime.datetime]
    worker_id: str
    group_id: str
    progress: Optional[Progress]
    raw_status: str  # as stored, where status is UNKNOWN

    @property
    def final(self) -> bool:
        """Whether the task has ended."""
        return self.status.final

    def result(self) -> Any:
        """None, the one value, or a tuple of several.

        Raises TaskFailed or TaskCancelled, and NoResult where it is not final.
        """
        return _result(self.task_id, self.status, self.results,
                       self.error_message, self.error_type)


@dataclasses.dataclass(frozen=True)
class GroupState:
    """How a group stands."""

    group_id: str
    total: int  # members
    counts: dict[Status, int]  # how many members stand where
    done: bool  # all members are final and, in a chord, the callback too
    chord_triggered: bool
    callback: Optional[State]  # of a chord


def state_of(message: pb.TaskState) -> State:
    progress = None
    if message.HasField("progress"):
        progress = Progress(message.progress.fraction, message.progress.text,
                            _time(message.progress.update_time))
    return State(
        task_id=message.task_id,
        status=Status(message.status),
        results=[from_message(value) for value in message.results],
        error_message=message.error.message,
        error_type=message.error.type,
        name=message.name,
        create_time=_time(message.create_time),
        start_time=_time(message.start_time),
        finish_time=_time(message.finish_time),
        attempt=message.attempt,
        next_attempt_time=_time(message.next_attempt_time),
        worker_id=message.worker_id,
        group_id=message.group_id,
        progress=progress,
        raw_status=message.raw_status,
    )


def group_state_of(message: pb.GroupState) -> GroupState:
    return GroupState(
        group_id=message.group_id,
        total=message.total,
        counts={Status(each.status): each.count for each in message.counts},
        done=message.done,
        chord_triggered=message.chord_triggered,
        callback=state_of(message.callback) if message.HasField("callback") else None,
    )


def is_final(message: pb.TaskState) -> bool:
    return Status(message.status).final


def final_result(message: pb.TaskState) -> Any:
    """State.result() of a message."""
    if message.status == pb.TASK_STATUS_SUCCESS:
        return result_of(message.results)
    return state_of(message).result()


def _result(task_id: str, status: Status, results: list[Any],
            error_message: str, error_type: str) -> Any:
    if status is Status.FAILURE:
        raise TaskFailed(task_id, error_message, error_type)
    if status is Status.CANCELLED:
        raise TaskCancelled(task_id, error_message, error_type)
    if status is not Status.SUCCESS:
        raise NoResult(f"task {task_id} has no result: it stands at {status.name}")
    if not results:
        return None
    return results[0] if len(results) == 1 else tuple(results)


def _time(message: timestamp_pb2.Timestamp) -> Optional[datetime.datetime]:
    if not message.ByteSize():
        return None
    return message.ToDatetime(datetime.timezone.utc)
