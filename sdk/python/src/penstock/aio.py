"""The client for asyncio: penstock.Client with await, async with and async for.

    async with penstock.aio.Client("localhost:50051") as client:
        handle = await client.send("add", 1, 1)
        print(await handle.result(timeout=10))

What its methods take, raise and promise is told in penstock.client.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import time
from typing import (
    Any,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Optional,
    Sequence,
    Union,
)

import grpc
import grpc.aio

from penstock._channel import (
    AGAIN,
    CALL_TIMEOUT,
    PAGE,
    RETRY_BUDGET,
    WAIT,
    WAIT_ROOM,
    Deadline,
    Metadata,
    Retry,
    Tls,
    channel_arguments,
    metadata_list,
)
from penstock.errors import (
    CallError,
    ResultTimeout,
    TaskError,
    call_error,
    ended_early,
    error_of,
)
from penstock.states import (
    GroupState,
    State,
    final_result,
    group_state_of,
    is_final,
    state_of,
)
from penstock.tasks import (
    Sent,
    Task,
    batches,
    new_request_id,
    next_message,
    take_answer,
    task_of,
    with_own_id,
)
from penstock.v1 import gateway_pb2 as pb
from penstock.v1 import gateway_pb2_grpc, messages_pb2


class Client:
    """Sends tasks and reads what became of them, in one event loop.

    The arguments are those of penstock.Client.
    """

    def __init__(
        self,
        addresses: Union[str, Sequence[str]] = "localhost:50051",
        *,
        tls: Union[None, bool, Tls] = None,
        timeout: float = CALL_TIMEOUT,
        retry_budget: float = RETRY_BUDGET,
        metadata: Optional[Metadata] = None,
    ) -> None:
        target, credentials, options = channel_arguments(addresses, tls)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options)
        self._stub = gateway_pb2_grpc.GatewayServiceStub(self._channel)
        self._timeout = timeout
        self._retry_budget = retry_budget
        self._metadata = metadata

    async def close(self) -> None:
        """Ends its connections, and calls that are under way."""
        await self._channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- sending

    async def send(
        self,
        task: Union[str, Task],
        *args: Any,
        request_id: str = "",
        timeout: Optional[float] = None,
        retry_budget: Optional[float] = None,
        metadata: Optional[Metadata] = None,
    ) -> TaskHandle:
        """Sends a task: send("add", 1, 1), or send(Task("add", 1, 1, delay=60))."""
        request = pb.SendTaskRequest(task=task_of(task, args).to_message(),
                                     request_id=request_id or new_request_id())
        answer = await self._call(self._stub.SendTask, request, timeout, retry_budget, metadata)
        return TaskHandle(self, answer.task_id, answer.replayed)

    async def run(
        self,
        task: Union[str, Task],
        *args: Any,
        timeout: Optional[float] = None,
        request_id: str = "",
        retry_budget: Optional[float] = None,
        metadata: Optional[Metadata] = None,
    ) -> Any:
        """Sends a task and waits for its end: send(...).result(timeout), in one call.

        `timeout` is that of the wait, as in TaskHandle.result(), whose errors it raises
        too; a task that has not ended by then goes on.
        """
        deadline = Deadline(timeout)
        wait = min(WAIT, deadline.left())
        request = pb.SendTaskRequest(task=task_of(task, args).to_message(),
                                     request_id=request_id or new_request_id())
        request.wait.FromNanoseconds(int(wait * 1e9))
        budget = self._retry_budget if retry_budget is None else retry_budget
        try:
            answer = await self._call(self._stub.SendTask, request, wait + WAIT_ROOM, 0, metadata)
        except CallError as error:
            if not error.retryable or budget <= 0:
                raise
            request.ClearField("wait")  # a repeat would wait as long again
            answer = await self._call(self._stub.SendTask, request, None,
                                      min(budget, deadline.left()), metadata)
        if is_final(answer.state):
            return final_result(answer.state)
        handle = TaskHandle(self, answer.task_id, answer.replayed)
        return await handle._result(deadline)

    async def send_group(
        self,
        tasks: Iterable[Task],
        *,
        group_id: str = "",
        send_concurrency: int = 0,
        request_id: str = "",
        timeout: Optional[float] = None,
        retry_budget: Optional[float] = None,
        metadata: Optional[Metadata] = None,
    ) -> Group:
        """Sends tasks that run in parallel."""
        request = pb.SendGroupRequest(
            tasks=[task.to_message() for task in tasks], group_id=group_id,
            send_concurrency=send_concurrency,
            request_id=request_id or new_request_id())
        answer = await self._call(self._stub.SendGroup, request, timeout, retry_budget, metadata)
        return Group(self, answer.group_id, answer.replayed,
                     [TaskHandle(self, id, answer.replayed) for id in answer.task_ids])

    async def send_chain(
        self,
        tasks: Iterable[Task],
        *,
        request_id: str = "",
        timeout: Optional[float] = None,
        retry_budget: Optional[float] = None,
        metadata: Optional[Metadata] = None,
    ) -> Chain:
        """Sends tasks that run one after the other, each with the results before it."""
        request = pb.SendChainRequest(tasks=[task.to_message() for task in tasks],
                                      request_id=request_id or new_request_id())
        answer = await self._call(self._stub.SendChain, request, timeout, retry_budget, metadata)
        return Chain(self, answer.replayed, list(answer.task_ids))

    async def send_chord(
        self,
        tasks: Iterable[Task],
        callback: Task,
        *,
        on_failure: Optional[Task] = None,
        group_id: str = "",
        send_concurrency: int = 0,
        request_id: str = "",
        timeout: Optional[float] = None,
        retry_budget: Optional[float] = None,
        metadata: Optional[Metadata] = None,
    ) -> Chord:
        """Sends a group, and `callback` with all its results once all have succeeded.

        on_failure is sent in place of the callback when one of them has not.
        """
        request = pb.SendChordRequest(
            tasks=[task.to_message() for task in tasks],
            callback=callback.to_message(),
            on_failure=None if on_failure is None else on_failure.to_message(),
            group_id=group_id, send_concurrency=send_concurrency,
            request_id=request_id or new_request_id())
        answer = await self._call(self._stub.SendChord, request, timeout, retry_budget, metadata)
        group = Group(self, answer.group_id, answer.replayed,
                      [TaskHandle(self, id, answer.replayed) for id in answer.task_ids])
        return Chord(self, answer.callback_task_id, answer.replayed, group)

    async def send_many(
        self,
        tasks: Iterable[Task],
        *,
        request_id: str = "",
        timeout: Optional[float] = None,
        retry_budget: Optional[float] = None,
        metadata: Optional[Metadata] = None,
    ) -> list[Union[TaskHandle, CallError]]:
        """Sends tasks that have nothing to do with each other, at most 1,000 a call.

        Of each, in order, its handle, or the error with which it was refused.
        """
        sent: list[Union[TaskHandle, CallError]] = []
        for request in batches(tasks, request_id or new_request_id()):
            sent += await self._send_batch(request, timeout, retry_budget, metadata)
        return sent

    async def _send_batch(
        self,
        request: pb.BatchSendTasksRequest,
        timeout: Optional[float],
        retry_budget: Optional[float],
        metadata: Optional[Metadata],
    ) -> list[Union[TaskHandle, CallError]]:
        retry = Retry(self._retry_budget if retry_budget is None else retry_budget)
        while True:
            answer = await self._call(self._stub.BatchSendTasks, request, timeout, retry_budget,
                                      metadata)
            sent: list[Union[TaskHandle, CallError]] = [
                call_error(result.status) if result.HasField("status")
                else TaskHandle(self, result.task_id, result.replayed)
                for result in answer.results]
            # The same request_id sends those that are missing, and no other.
            again = [each for each in sent if isinstance(each, CallError) and each.retryable]
            if not again:
                return sent
            try:
                await asyncio.sleep(retry.pause_after(again[0]))
            except CallError:
                return sent  # some were accepted: each tells its own end

    async def stream(
        self,
        tasks: Union[Iterable[Task], AsyncIterable[Task]],
        *,
        retry_budget: Optional[float] = None,
        metadata: Optional[Metadata] = None,
    ) -> AsyncIterator[Sent]:
        """Sends tasks as they come; what became of each, in the order in which it does.

        The tasks are taken 1,000 ahead of the answers at most. When the stream
        breaks, those without an answer are sent again: they have ids, and run once.
        """
        retry = Retry(self._retry_budget if retry_budget is None else retry_budget)
        sender = _StreamSender(tasks, functools.partial(TaskHandle, self))
        try:
            while True:
                call = self._stub.StreamTasks(sender.requests(),
                                              metadata=self._all_metadata(metadata))
                try:
                    async for answer in call:
                        told, error = await sender.answered(answer)
                        for sent in told:
                            retry.succeeded()
                            yield sent
                        if error is not None:
                            break
                    else:
                        if sender.finished():
                            return
                        error = ended_early()
                except grpc.RpcError as failure:
                    error = _stream_error(failure)
                finally:
                    call.cancel()
                # All that have no answer go to the next stream.
                await asyncio.sleep(retry.pause_after(error))
        finally:
            sender.close()

    # ---- tasks and groups that were sent earlier, or elsewhere

    def task(self, task_id: str) -> TaskHandle:
        """The handle of a task by its id; calls nobody."""
        return TaskHandle(self, task_id)

    def group(self, group_id: str) -> Group:
        """The handle of a group by its id; calls nobody."""
        return Group(self, group_id)

    async def states(self, task_ids: Sequence[str]) -> list[Optional[State]]:
        """How many tasks stand, in order; None: never seen, or expired."""
        found: dict[str, State] = {}
        for begin in range(0, len(task_ids), PAGE):
            request = pb.BatchGetStatesRequest(task_ids=task_ids[begin:begin + PAGE])
            answer = await self._call(self._stub.BatchGetStates, request)
            found.update((state.task_id, state_of(state)) for state in answer.states)
        return [found.get(task_id) for task_id in task_ids]

    async def watch(self, task_ids: Sequence[str]) -> AsyncIterator[State]:
        """The states of up to 1,000 tasks as they change, until all are final.

        The present state of each comes first; quick changes may be left out, the
        final one never. When the stream breaks it is taken up again.
        """
        retry = Retry(self._retry_budget)
        seen: dict[str, messages_pb2.TaskState] = {}
        while True:
            call = self._stub.WatchState(pb.WatchStateRequest(task_ids=task_ids),
                                         metadata=self._all_metadata(None))
            try:
                async for event in call:
                    retry.succeeded()
                    # A stream that begins anew says what is known already.
                    if event.HasField("state") and seen.get(event.state.task_id) != event.state:
                        seen[event.state.task_id] = event.state
                        yield state_of(event.state)
                return
            except grpc.RpcError as failure:
                await asyncio.sleep(retry.pause_after(error_of(failure)))
            finally:
                call.cancel()

    # ---- calls

    def _all_metadata(self, metadata: Optional[Metadata]) -> list[tuple[str, str]]:
        return metadata_list(self._metadata, metadata)

    async def _call(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout: Optional[float] = None,
        retry_budget: Optional[float] = None,
        metadata: Optional[Metadata] = None,
    ) -> Any:
        retry = Retry(self._retry_budget if retry_budget is None else retry_budget)
        while True:
            try:
                return await method(request, metadata=self._all_metadata(metadata),
                                    timeout=self._timeout if timeout is None else timeout)
            except grpc.RpcError as failure:
                error = error_of(failure)
            await asyncio.sleep(retry.pause_after(error))

    async def _await(
        self,
        method: Callable[..., Any],
        request: Any,
        deadline: Deadline,
        is_over: Callable[[Any], bool],
        what: str,
    ) -> Any:
        """Calls a method that waits until what it answers is over."""
        while True:
            wait = min(WAIT, deadline.left())
            request.wait.FromNanoseconds(int(wait * 1e9))
            begin = time.monotonic()
            answer = await self._call(method, request, wait + WAIT_ROOM,
                                      min(self._retry_budget, deadline.left()))
            if is_over(answer):
                return answer
            if deadline.left() == 0:
                raise ResultTimeout(f"{what} has not ended within {deadline.timeout} s")
            if time.monotonic() - begin < wait:
                await asyncio.sleep(min(AGAIN, deadline.left()))


def _stream_error(failure: grpc.RpcError) -> CallError:
    """The error of a stream that failed.

    When a write finds that the stream has ended, grpcio may forget how it ended
    and say this in its place (grpc/grpc#36066).
    """
    error = error_of(failure)
    if error.code == grpc.StatusCode.INTERNAL and error.message == "Internal error from Core":
        return ended_early()
    return error


class TaskHandle:
    """A task that was sent."""

    def __init__(self, client: Client, task_id: str, replayed: bool = False) -> None:
        self._client = client
        self.id = task_id
        #: An equal task had been sent under this id before: it runs once.
        self.replayed = replayed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def result(self, timeout: Optional[float] = None) -> Any:
        """Waits for its end: None, the one value, or a tuple of several.

        Raises TaskFailed or TaskCancelled when it ended so, and ResultTimeout when
        it has not ended within `timeout` seconds (None: waits for ever).
        """
        return await self._result(Deadline(timeout))

    async def _result(self, deadline: Deadline) -> Any:
        answer = await self._client._await(
            self._client._stub.GetState, pb.GetStateRequest(task_id=self.id), deadline,
            lambda answer: is_final(answer.state), f"task {self.id}")
        return final_result(answer.state)

    async def state(self) -> State:
        """How it stands. Raises NotFound: never seen, or expired."""
        request = pb.GetStateRequest(task_id=self.id)
        return state_of(
            (await self._client._call(self._client._stub.GetState, request)).state)

    def watch(self) -> AsyncIterator[State]:
        """Its states as they change, to the final one; see Client.watch."""
        return self._client.watch([self.id])

    async def cancel(self, reason: str = "") -> bool:
        """Cancels it; False: it had ended already."""
        request = pb.CancelTaskRequest(task_id=self.id, reason=reason)
        return (await self._client._call(self._client._stub.CancelTask, request)).accepted


class Group:
    """A group that was sent."""

    def __init__(self, client: Client, group_id: str, replayed: bool = False,
                 tasks: Sequence[TaskHandle] = ()) -> None:
        self._client = client
        self.id = group_id
        #: An equal group had been sent before.
        self.replayed = replayed
        #: The members in order; empty in a group of Client.group().
        self.tasks = list(tasks)

    def __repr__(self) -> str:
        return f"<Group {self.id}>"

    async def wait(self, timeout: Optional[float] = None) -> GroupState:
        """Waits until all members are final (of a chord its callback too).

        Raises ResultTimeout.
        """
        answer = await self._client._await(
            self._client._stub.GetGroupState, pb.GetGroupStateRequest(group_id=self.id),
            Deadline(timeout), lambda answer: answer.group.done, f"group {self.id}")
        return group_state_of(answer.group)

    async def results(self, timeout: Optional[float] = None, *,
                      return_errors: bool = False) -> list[Any]:
        """Waits for all members; what TaskHandle.result() is of each, in order.

        Raises the TaskError of the first one that has failed; with return_errors
        it stands in the list instead. Raises ResultTimeout, and NoResult where the
        state of a member has expired.
        """
        await self.wait(timeout)
        results: list[Any] = []
        async for state in self._members():
            try:
                results.append(final_result(state))
            except TaskError as error:
                if not return_errors:
                    raise
                results.append(error)
        return results

    async def states(self) -> list[State]:
        """How the members stand, in order."""
        return [state_of(state) async for state in self._members()]

    async def _members(self) -> AsyncIterator[messages_pb2.TaskState]:
        request = pb.GetGroupStateRequest(group_id=self.id, include_tasks=True,
                                          page_size=PAGE)
        while True:
            answer = await self._client._call(self._client._stub.GetGroupState, request)
            for state in answer.group.tasks:
                yield state
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def state(self) -> GroupState:
        """How it stands. Raises NotFound: never seen, or expired."""
        request = pb.GetGroupStateRequest(group_id=self.id)
        return group_state_of(
            (await self._client._call(self._client._stub.GetGroupState, request)).group)

    async def cancel(self, reason: str = "") -> int:
        """Cancels every member and a chord's callback; how many had not ended."""
        request = pb.CancelGroupRequest(group_id=self.id, reason=reason)
        answer = await self._client._call(self._client._stub.CancelGroup, request)
        return answer.cancelled_count


class Chain(TaskHandle):
    """A chain that was sent; as a task it is its last link."""

    def __init__(self, client: Client, replayed: bool, task_ids: Sequence[str]) -> None:
        super().__init__(client, task_ids[-1], replayed)
        #: The links, in order.
        self.links = [TaskHandle(client, id, replayed) for id in task_ids]


class Chord(TaskHandle):
    """A chord that was sent; as a task it is its callback."""

    def __init__(self, client: Client, callback_id: str, replayed: bool,
                 group: Group) -> None:
        super().__init__(client, callback_id, replayed)
        #: The members.
        self.group = group


class _StreamSender:
    """The tasks of Client.stream: which are to be sent, and which have no answer.

    A task of its own takes the program's tasks; gRPC's takes requests(); the
    program's brings the answers.
    """

    _AHEAD = 1000

    def __init__(self, tasks: Union[Iterable[Task], AsyncIterable[Task]],
                 handle: Callable[[str, bool], TaskHandle]) -> None:
        self._changed = asyncio.Condition()
        self._handle = handle
        self._to_send: collections.deque[pb.StreamTask] = collections.deque()
        self._unanswered: dict[int, tuple[Task, pb.StreamTask]] = {}
        self._taken = 0  # tasks, so far
        self._credit = 0
        self._max_tasks = 1  # of a message
        self._stream = 0  # counts them: an old one sends no more
        self._exhausted = False
        self._error: Optional[Exception] = None
        self._taker = asyncio.create_task(self._take(tasks))

    async def _take(self, tasks: Union[Iterable[Task], AsyncIterable[Task]]) -> None:
        try:
            if isinstance(tasks, AsyncIterable):
                async for task in tasks:
                    await self._add(task)
            else:
                for task in tasks:
                    await self._add(task)
        except Exception as error:  # the program's own: it is raised there
            self._error = error
        async with self._changed:
            self._exhausted = True
            self._changed.notify_all()

    async def _add(self, task: Task) -> None:
        message = with_own_id(task.to_message())
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._unanswered) < self._AHEAD)
            numbered = pb.StreamTask(sequence=self._taken, task=message)
            self._taken += 1
            self._unanswered[numbered.sequence] = (task, numbered)
            self._to_send.append(numbered)
            self._changed.notify_all()

    def requests(self) -> AsyncIterator[pb.StreamTasksRequest]:
        """What a new stream is to send: first all that has no answer."""
        self._stream += 1
        self._credit = 0
        self._max_tasks = 1
        self._to_send = collections.deque(
            message for _, (_, message) in sorted(self._unanswered.items()))
        return self._requests(self._stream)

    async def _requests(self, stream: int) -> AsyncIterator[pb.StreamTasksRequest]:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._is_over(stream) or (
                    self._credit > 0 and self._to_send))
                if self._is_over(stream):
                    return
                request = next_message(self._to_send, min(self._credit, self._max_tasks))
                self._credit -= len(request.tasks) or 1
            yield request

    def _is_over(self, stream: int) -> bool:
        return stream != self._stream or (self._exhausted and not self._to_send)

    async def answered(
        self, answer: pb.StreamTasksResponse
    ) -> tuple[list[Sent], Optional[CallError]]:
        """What it tells of tasks; and an error, where others need another stream."""
        async with self._changed:
            told, error = take_answer(answer, self._unanswered, self._handle)
            # What this stream still took would be sent twice.
            self._credit = self._credit + answer.credit if error is None else 0
            # Only the first answer, which is about no task, has it.
            self._max_tasks = max(self._max_tasks, answer.max_tasks)
            self._changed.notify_all()
            return told, error

    def finished(self) -> bool:
        """Whether all have an answer; raises what the program's tasks raised."""
        if not self._exhausted or self._unanswered:
            return False
        if self._error is not None:
            raise self._error
        return True

    def close(self) -> None:
        # The call is cancelled, and with it gRPC's own task.
        self._taker.cancel()
