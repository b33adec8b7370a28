"""A client of Penstock, a task queue.

    with penstock.Client("localhost:50051") as client:
        handle = client.send("add", 1, 1)
        print(handle.result(timeout=10))

`penstock.aio` has the same for asyncio.
"""

from penstock._channel import Tls
from penstock.client import Chain, Chord, Client, Group, TaskHandle
from penstock.errors import (
    AlreadyExists,
    CallError,
    Error,
    FieldViolation,
    InvalidArgument,
    NoResult,
    NotFound,
    ResultTimeout,
    TaskCancelled,
    TaskError,
    TaskFailed,
    Unavailable,
)
from penstock.states import GroupState, Progress, State, Status
from penstock.tasks import Backoff, Sent, Task
from penstock.values import Typed, typed

__all__ = [
    "AlreadyExists",
    "Backoff",
    "CallError",
    "Chain",
    "Chord",
    "Client",
    "Error",
    "FieldViolation",
    "Group",
    "GroupState",
    "InvalidArgument",
    "NoResult",
    "NotFound",
    "Progress",
    "ResultTimeout",
    "Sent",
    "State",
    "Status",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskHandle",
    "Tls",
    "Typed",
    "Unavailable",
    "typed",
]
