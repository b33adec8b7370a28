"""A gateway whose answers a test writes, behind a real gRPC server."""

import concurrent.futures

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from penstock.v1 import gateway_pb2 as pb
from penstock.v1 import gateway_pb2_grpc


def status(code, reason, *, delay=None, fields=(), message="no"):
    """A google.rpc.Status as gateways make them."""
    result = status_pb2.Status(code=code.value[0], message=message)
    details = [error_details_pb2.ErrorInfo(reason=reason, domain="penstock.dev",
                                           metadata={"key": "value"})]
    if fields:
        bad = error_details_pb2.BadRequest()
        for field in fields:
            bad.field_violations.add(field=field, description="is required")
        details.append(bad)
    if delay is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(delay * 1e9))
        details.append(retry)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        result.details.append(packed)
    return result


class Refused(Exception):
    """Raised by an answer: the call ends with this status."""

    def __init__(self, code, reason="", **more):
        super().__init__(reason)
        self.status = status(code, reason, **more)


class FakeGateway(gateway_pb2_grpc.GatewayServiceServicer):
    """`answers` are functions of a request and its metadata, one for each call; the
    last one answers all that follow. `calls` are the requests and their metadata;
    `streams` the messages of each StreamTasks."""

    def __init__(self, credentials=None):
        self.answers = []
        self.calls = []
        self.streams = []
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(self, self._server)
        self.port = (self._server.add_insecure_port("127.0.0.1:0") if credentials is None
                     else self._server.add_secure_port("127.0.0.1:0", credentials))
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self):
        self._server.stop(None).wait()

    def _next(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _answer(self, request, context):
        self.calls.append((request, dict(context.invocation_metadata())))
        try:
            return self._next()(request)
        except Refused as refused:
            self._refuse(context, refused)

    @staticmethod
    def _refuse(context, refused):
        context.set_trailing_metadata(
            (("grpc-status-details-bin", refused.status.SerializeToString()),))
        code = [code for code in grpc.StatusCode if code.value[0] == refused.status.code]
        context.abort(code[0], refused.status.message)

    SendTask = SendGroup = SendChain = SendChord = _answer
    GetState = BatchGetStates = GetGroupState = _answer
    CancelTask = CancelGroup = BatchSendTasks = _answer

    def WatchState(self, request, context):  # pylint: disable=invalid-name
        self.calls.append((request, dict(context.invocation_metadata())))
        try:
            yield from self._next()(request)
        except Refused as refused:
            self._refuse(context, refused)

    def StreamTasks(self, requests, context):  # pylint: disable=invalid-name
        self.calls.append((None, dict(context.invocation_metadata())))
        messages = []
        self.streams.append(messages)

        def seen():
            for request in requests:
                messages.append(request)
                yield request

        try:
            yield from self._next()(seen())
        except Refused as refused:
            self._refuse(context, refused)

    def sizes(self):
        """Of each stream: how many `tasks` its messages have; 0: the one is in `task`."""
        return [[len(request.tasks) for request in stream] for stream in self.streams]


def accepted(request):
    """An answer of SendTask."""
    return pb.SendTaskResponse(task_id=request.task.id or "task_1")


def tasks_of(request):
    """The tasks of a message of a stream, with their numbers."""
    return request.tasks or [request]


def stream_answer(request, refusals=()):
    """The answer to a message of a stream; refusals: statuses by number."""
    results = [
        {"sequence": each.sequence, "status": refusals[each.sequence]}
        if each.sequence in refusals
        else {"sequence": each.sequence, "task_id": each.task.id}
        for each in tasks_of(request)]
    if request.tasks:
        return pb.StreamTasksResponse(results=results, credit=len(results))
    return pb.StreamTasksResponse(credit=1, **results[0])


def refused(*words, **more):
    """An answer that is an error."""

    def answer(_):
        raise Refused(*words, **more)

    return answer
