"""What can go wrong: a call (CallError) or a task (TaskError).

An argument that cannot be sent is a TypeError or a ValueError, before any call.
"""

from __future__ import annotations

import builtins
from typing import NamedTuple, Optional

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2


class Error(Exception):
    """Any error of this package."""


class FieldViolation(NamedTuple):
    """What is wrong with one field of a request."""

    field: str  # its path, such as "task.args[0].int_value"
    description: str


class CallError(Error):
    """A gateway refused a call, or could not be reached."""

    code: grpc.StatusCode
    reason: str  # such as "INVALID_FIELD"; empty where no gateway answered
    message: str
    metadata: dict[str, str]  # what goes with the reason, such as "task_id"
    violations: list[FieldViolation]  # with INVALID_FIELD, in order
    retry_delay: Optional[float]  # seconds; None where the gateway named none

    def __init__(self, status: status_pb2.Status) -> None:
        self.code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        self.reason = ""
        self.message = status.message
        self.metadata = {}
        self.violations = []
        self.retry_delay = None
        for detail in status.details:
            self._read(detail)
        name = self.code.name + (f" {self.reason}" if self.reason else "")
        super().__init__(f"{name}: {self.message}")

    def _read(self, detail: Any) -> None:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            self.reason = info.reason
            self.metadata = dict(info.metadata)
        elif detail.Unpack(bad):
            self.violations = [FieldViolation(violation.field, violation.description)
                               for violation in bad.field_violations]
        elif detail.Unpack(retry):
            self.retry_delay = retry.retry_delay.ToTimedelta().total_seconds()

    @property
    def retryable(self) -> bool:
        """Whether the same call may do better in a moment."""
        if self.code == grpc.StatusCode.UNAVAILABLE:
            return True
        # Not by this program: a gateway's gRPC ends calls so that reach it in the
        # moment in which it stops.
        if self.code == grpc.StatusCode.CANCELLED:
            return not self.reason
        if self.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_delay is not None
        return self.reason in ("CONFIRM_TIMEOUT", "GROUP_PARTIALLY_SENT")


class InvalidArgument(CallError):
    """Something is wrong with the request; `violations` say what."""


class NotFound(CallError):
    """No such task or group, or its state has expired."""


class AlreadyExists(CallError):
    """An id, a request_id or a unique_key is taken; `reason` says which."""


class Unavailable(CallError):
    """No gateway, or nothing behind it, answered until the retries were over."""


class TaskError(Error):
    """A task ended without results."""

    def __init__(self, task_id: str, message: str, type: str) -> None:  # pylint: disable=redefined-builtin
        super().__init__(f"{task_id}: {message}")
        self.task_id = task_id
        self.message = message
        self.type = type  # "exception", "timeout", ...: see TaskError in the .proto


class TaskFailed(TaskError):
    """A task ended in FAILURE."""


class TaskCancelled(TaskError):
    """A task was cancelled."""


class NoResult(Error):
    """The state of a task has no result: it is not final, or it has expired."""


class ResultTimeout(Error, builtins.TimeoutError):
    """The task, or the group, had not ended when the time of the wait was over."""


_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CLASSES: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}


def call_error(status: status_pb2.Status) -> CallError:
    """The error of a status."""
    return _CLASSES.get(_CODES.get(status.code), CallError)(status)


def error_of(failure: grpc.RpcError) -> CallError:
    """The error of a call that failed."""
    for key, value in failure.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return call_error(status_pb2.Status.FromString(value))
    return call_error(status_pb2.Status(code=failure.code().value[0],
                                        message=failure.details() or ""))


def ended_early() -> CallError:
    """Of a stream that ended well before all was answered."""
    return call_error(status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0],
                                        message="the gateway ended the stream"))
