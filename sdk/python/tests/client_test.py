import asyncio
import datetime
import pathlib
import subprocess
import tempfile
import threading
import time
import unittest

import grpc

import penstock
from fake_gateway import (
    FakeGateway,
    Refused,
    accepted,
    refused,
    status,
    stream_answer,
    tasks_of,
)
from penstock import Status, Task, aio
from penstock._channel import Retry, channel_arguments, metadata_list
from penstock.v1 import gateway_pb2 as pb
from penstock.v1 import messages_pb2

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED


def state(status_, task_id="task_1", *values, message=""):
    error = messages_pb2.TaskError(message=message, type="UNKNOWN") if message else None
    return messages_pb2.TaskState(
        task_id=task_id, status=getattr(messages_pb2, f"TASK_STATUS_{status_}"),
        results=[messages_pb2.Value(type="int64", int_value=value) for value in values],
        error=error)


def state_answer(*words, **more):
    return lambda request: pb.GetStateResponse(state=state(*words, **more))


def sent_answer(*words, **more):
    """An answer of a SendTask that waits."""
    return lambda request: pb.SendTaskResponse(task_id="t", state=state(*words, **more))


class WithGateway(unittest.TestCase):
    def setUp(self):
        self.gateway = FakeGateway()
        self.addCleanup(self.gateway.stop)
        self.client = penstock.Client(self.gateway.address)
        self.addCleanup(self.client.close)


CERTIFICATES = pathlib.Path()


def setUpModule():  # pylint: disable=invalid-name
    """Makes two certificates: before the first gRPC call, whose threads forbid a fork."""
    global CERTIFICATES  # pylint: disable=global-statement
    directory = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(directory.cleanup)
    CERTIFICATES = pathlib.Path(directory.name)
    for name in ("ours", "other"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
             "-subj", "/CN=gateway.test", "-addext", "subjectAltName=DNS:gateway.test",
             "-keyout", CERTIFICATES / f"{name}.key", "-out", CERTIFICATES / f"{name}.pem"],
            check=True, capture_output=True)


class Calls(WithGateway):
    def test_repeats_are_one_call(self):
        self.gateway.answers = [
            refused(UNAVAILABLE, "DRAINING"),
            refused(EXHAUSTED, "TOO_MANY_IN_FLIGHT", delay=0.01),
            refused(DEADLINE, "CONFIRM_TIMEOUT"),
            refused(grpc.StatusCode.CANCELLED),
            accepted]
        self.assertEqual(self.client.send("add", 1).id, "task_1")
        ids = {request.request_id for request, _ in self.gateway.calls}
        self.assertEqual(len(self.gateway.calls), 5)
        self.assertEqual(len(ids), 1)
        self.assertNotIn("", ids)

    def test_two_calls_are_two(self):
        self.gateway.answers = [accepted]
        self.client.send("add")
        self.client.send("add")
        self.client.send("add", request_id="mine")
        ids = [request.request_id for request, _ in self.gateway.calls]
        self.assertEqual(len(set(ids)), 3)
        self.assertEqual(ids[2], "mine")

    def test_what_is_not_repeated(self):
        for code, reason in [
            (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
            (EXHAUSTED, "PAYLOAD_TOO_LARGE"),
            (DEADLINE, ""),
            (grpc.StatusCode.CANCELLED, "SOME_REASON"),
            (grpc.StatusCode.FAILED_PRECONDITION, "QUEUE_NOT_FOUND"),
        ]:
            with self.subTest(code=code):
                self.gateway.answers = [refused(code, reason), accepted]
                with self.assertRaises(penstock.CallError) as caught:
                    self.client.send("add")
                self.assertEqual((caught.exception.code, caught.exception.reason),
                                 (code, reason))

    def test_the_budget_ends_repeats(self):
        self.gateway.answers = [refused(UNAVAILABLE, "BROKER_UNAVAILABLE")]
        with self.assertRaises(penstock.Unavailable):
            self.client.send("add", retry_budget=0.2)
        self.assertGreater(len(self.gateway.calls), 1)
        self.gateway.calls.clear()
        with self.assertRaises(penstock.Unavailable):
            self.client.send("add", retry_budget=0)
        self.assertEqual(len(self.gateway.calls), 1)

    def test_nobody_there(self):
        with penstock.Client("127.0.0.1:1", retry_budget=0) as client:
            with self.assertRaises(penstock.Unavailable) as caught:
                client.send("add")
        self.assertEqual(caught.exception.reason, "")

    def test_an_error_says_all(self):
        self.gateway.answers = [refused(
            grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", message="task.name: x",
            fields=["task.name", "task.id"])]
        with self.assertRaises(penstock.InvalidArgument) as caught:
            self.client.send("")
        error = caught.exception
        self.assertEqual(error.metadata, {"key": "value"})
        self.assertEqual(error.violations, [("task.name", "is required"),
                                            ("task.id", "is required")])
        self.assertEqual(str(error), "INVALID_ARGUMENT INVALID_FIELD: task.name: x")
        self.assertIsNone(error.retry_delay)

    def test_metadata(self):
        self.gateway.answers = [accepted]
        with penstock.Client(self.gateway.address,
                             metadata={"Tenant": "a", "kept": "1"}) as client:
            client.send("add", metadata={"tenant": "b", "traceparent": "t"})
        _, metadata = self.gateway.calls[0]
        self.assertEqual((metadata["tenant"], metadata["kept"], metadata["traceparent"]),
                         ("b", "1", "t"))

    def test_one_of_two_gateways_is_away(self):
        self.gateway.answers = [accepted]
        with penstock.Client(f"127.0.0.1:1,{self.gateway.address}") as client:
            for _ in range(20):
                client.send("add")
        self.assertEqual(len(self.gateway.calls), 20)

    def test_two_gateways_take_turns(self):
        other = FakeGateway()
        self.addCleanup(other.stop)
        self.gateway.answers = other.answers = [accepted]
        with penstock.Client([self.gateway.address, f"localhost:{other.port}"]) as client:
            while not (self.gateway.calls and other.calls):
                client.send("add")
            self.gateway.calls.clear()
            other.calls.clear()
            for _ in range(20):
                client.send("add")
        self.assertEqual((len(self.gateway.calls), len(other.calls)), (10, 10))


class Waiting(WithGateway):
    def test_waits_until_it_is_final(self):
        self.gateway.answers = [state_answer("PENDING"), refused(UNAVAILABLE, "DRAINING"),
                                state_answer("STARTED"), state_answer("SUCCESS", "t", 1, 2)]
        self.assertEqual(self.client.task("t").result(20), (1, 2))
        self.assertEqual(len(self.gateway.calls), 4)

    def test_the_wait_is_cut_to_the_time_left(self):
        self.gateway.answers = [state_answer("SUCCESS")]
        self.client.task("t").result()
        self.client.task("t").result(7)
        waits = [request.wait.ToTimedelta() for request, _ in self.gateway.calls]
        self.assertEqual(waits[0], datetime.timedelta(seconds=30))
        self.assertLessEqual(waits[1], datetime.timedelta(seconds=7))

    def test_time_is_over(self):
        self.gateway.answers = [state_answer("PENDING")]
        with self.assertRaises(TimeoutError):
            self.client.task("t").result(0)
        with self.assertRaises(penstock.ResultTimeout):
            self.client.task("t").result(0.2)

    def test_how_it_ended(self):
        self.gateway.answers = [state_answer("FAILURE", "t", message="bad"),
                                state_answer("CANCELLED", "t", message="cancelled")]
        with self.assertRaises(penstock.TaskFailed) as caught:
            self.client.task("t").result()
        error = caught.exception
        self.assertEqual((error.task_id, error.message, error.type), ("t", "bad", "UNKNOWN"))
        with self.assertRaises(penstock.TaskCancelled):
            self.client.task("t").result()

    def test_a_run_is_one_call(self):
        self.gateway.answers = [refused(UNAVAILABLE, "DRAINING"),
                                sent_answer("SUCCESS", "t", 3)]
        self.assertEqual(self.client.run("add", 1, 2, timeout=7), 3)
        first, second = [request for request, _ in self.gateway.calls]
        self.assertEqual(first.request_id, second.request_id)
        self.assertFalse(second.HasField("wait"))  # or it might take twice as long
        self.assertNotEqual(first.request_id, "")
        self.assertEqual([arg.int_value for arg in first.task.args], [1, 2])
        self.assertLessEqual(first.wait.ToTimedelta(), datetime.timedelta(seconds=7))
        self.assertGreater(first.wait.ToTimedelta(), datetime.timedelta(seconds=6))

    def test_how_a_run_ended(self):
        self.gateway.answers = [sent_answer("FAILURE", "t", message="bad"),
                                sent_answer("CANCELLED", "t", message="cancelled"),
                                refused(grpc.StatusCode.FAILED_PRECONDITION,
                                        "QUEUE_NOT_FOUND")]
        with self.assertRaisesRegex(penstock.TaskFailed, "bad"):
            self.client.run("add")
        with self.assertRaises(penstock.TaskCancelled):
            self.client.run("add")
        with self.assertRaises(penstock.CallError):
            self.client.run(Task("add"))
        waits = {request.wait.ToTimedelta() for request, _ in self.gateway.calls}
        self.assertEqual(waits, {datetime.timedelta(seconds=30)})

    def test_a_run_that_has_not_ended_is_waited_for(self):
        for answer in (sent_answer("STARTED", "t"), accepted):  # with a state, and without
            self.gateway.calls.clear()
            self.gateway.answers = [answer, state_answer("STARTED"),
                                    state_answer("SUCCESS", "t", 3)]
            self.assertEqual(self.client.run(Task("add", id="t"), timeout=20), 3)
            sent, *asked = [request for request, _ in self.gateway.calls]
            self.assertEqual(sent.task.id, "t")
            self.assertEqual([request.task_id for request in asked], ["t", "t"])

    def test_a_run_is_repeated_while_its_time_lasts(self):
        self.gateway.answers = [refused(UNAVAILABLE, "DRAINING")]
        begin = time.monotonic()
        with self.assertRaises(penstock.Unavailable):
            self.client.run("add", timeout=0.2)
        self.assertLess(time.monotonic() - begin, 20)
        self.gateway.calls.clear()
        with self.assertRaises(penstock.Unavailable):
            self.client.run("add", timeout=5, retry_budget=0)
        self.assertEqual(len(self.gateway.calls), 1)

    def test_the_time_of_a_run_is_over(self):
        self.gateway.answers = [sent_answer("STARTED", "t"), state_answer("STARTED")]
        with self.assertRaisesRegex(penstock.ResultTimeout, "task t .* within 0.1 s"):
            self.client.run("add", timeout=0.1)

    def test_a_group_by_pages(self):
        def page(request):
            group = messages_pb2.GroupState(group_id="g", total=2, done=True)
            if not request.include_tasks:
                return pb.GetGroupStateResponse(group=group)
            if not request.page_token:
                group.tasks.append(state("SUCCESS", "a", 1))
                return pb.GetGroupStateResponse(group=group, next_page_token="2")
            group.tasks.append(state("FAILURE", "b", message="bad"))
            return pb.GetGroupStateResponse(group=group)

        self.gateway.answers = [page]
        group = self.client.group("g")
        first, second = group.results(10, return_errors=True)
        self.assertEqual((first, second.message), (1, "bad"))
        with self.assertRaises(penstock.TaskFailed):
            group.results(10)

    def test_a_state_that_has_expired(self):
        group = messages_pb2.GroupState(group_id="g", total=1, done=True,
                                        tasks=[messages_pb2.TaskState(task_id="a")])
        self.gateway.answers = [lambda _: pb.GetGroupStateResponse(group=group)]
        with self.assertRaises(penstock.NoResult):
            self.client.group("g").results(10)

    def test_a_status_of_the_future(self):
        future = messages_pb2.TaskState(task_id="t", status=99, raw_status="NEW")
        self.gateway.answers = [lambda _: pb.GetStateResponse(state=future)]
        found = self.client.task("t").state()
        self.assertEqual((found.status, found.raw_status), (Status.UNKNOWN, "NEW"))
        self.assertFalse(found.final)

    def test_a_watch_is_taken_up_again(self):
        def first(_):
            yield pb.WatchStateResponse(state=state("PENDING"))
            yield pb.WatchStateResponse(keepalive=pb.Keepalive())
            yield pb.WatchStateResponse(state=state("STARTED"))
            raise Refused(UNAVAILABLE, "DRAINING")

        def second(_):
            yield pb.WatchStateResponse(state=state("STARTED"))
            yield pb.WatchStateResponse(state=state("SUCCESS"))

        self.gateway.answers = [first, second]
        seen = [each.status.name for each in self.client.task("task_1").watch()]
        self.assertEqual(seen, ["PENDING", "STARTED", "SUCCESS"])


def taking(count, end=None, *, credit=2, max_tasks=0, ready=None, refusals=()):
    """A stream that answers so many messages, and then ends so or when they are over.

    ready: an Event that it waits for before its first answer.
    """

    def answer(requests):
        if ready is not None:
            ready.wait()
        yield pb.StreamTasksResponse(credit=credit, max_tasks=max_tasks)
        for number, request in enumerate(requests):
            if number == count:
                raise end
            yield stream_answer(request, refusals)

    return answer


def numbered(count, ready):
    """So many tasks; `ready` is set when the client has all of them."""
    for i in range(count):
        yield Task("add", id=f"t{i}")
    ready.set()


# The first task of a stream may pass later, the second one never.
REFUSALS = {0: status(UNAVAILABLE, "BROKER_NACK"),
            1: status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")}


class Many(WithGateway):
    def test_in_calls_of_a_thousand(self):
        self.gateway.answers = [lambda request: pb.BatchSendTasksResponse(results=[
            pb.SendTaskResult(task_id=task.id) for task in request.tasks])]
        sent = self.client.send_many(Task("add", id=f"t{i}") for i in range(2500))
        self.assertEqual([handle.id for handle in sent], [f"t{i}" for i in range(2500)])
        self.assertEqual([len(request.tasks) for request, _ in self.gateway.calls],
                         [1000, 1000, 500])
        self.assertEqual(len({request.request_id for request, _ in self.gateway.calls}), 3)

    def test_what_may_pass_is_sent_again(self):
        late = pb.SendTaskResult(status=status(UNAVAILABLE, "BROKER_NACK"))
        bad = pb.SendTaskResult(status=status(
            grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", fields=["tasks[1].name"]))
        good = pb.SendTaskResult(task_id="a")
        self.gateway.answers = [
            lambda _: pb.BatchSendTasksResponse(results=[late, bad]),
            lambda _: pb.BatchSendTasksResponse(results=[good, bad])]
        first, second = self.client.send_many([Task("add"), Task("")])
        self.assertEqual(first.id, "a")
        self.assertEqual(second.violations[0].field, "tasks[1].name")
        ids = {request.request_id for request, _ in self.gateway.calls}
        self.assertEqual((len(self.gateway.calls), len(ids)), (2, 1))

    def test_none(self):
        self.assertEqual(self.client.send_many([]), [])

    def test_a_stream(self):
        self.gateway.answers = [taking(None)]
        sent = list(self.client.stream(Task("add", i) for i in range(50)))
        self.assertEqual([each.index for each in sent], list(range(50)))
        self.assertEqual(len({each.handle.id for each in sent}), 50)

    def test_a_stream_that_breaks_goes_on(self):
        self.gateway.answers = [
            refused(UNAVAILABLE, "DRAINING"), taking(3, Refused(UNAVAILABLE, "DRAINING")),
            taking(4, Refused(grpc.StatusCode.CANCELLED)), taking(None)]
        sent = list(self.client.stream(Task("add", i) for i in range(20)))
        self.assertEqual(sorted(each.index for each in sent), list(range(20)))

    def test_those_that_are_ready_share_a_message(self):
        for credit, max_tasks, sizes in [
            (1000, 100, [100, 100, 0]),  # one alone is in `task`
            (1000, 150, [150, 51]),
            (80, 100, [80, 80, 41]),
            (1000, 1, [0] * 201),
            (1000, 0, [0] * 201),  # a gateway that does not know of it
        ]:
            with self.subTest(credit=credit, max_tasks=max_tasks):
                ready = threading.Event()
                self.gateway.streams.clear()
                self.gateway.answers = [
                    taking(None, credit=credit, max_tasks=max_tasks, ready=ready)]
                sent = list(self.client.stream(numbered(201, ready)))
                self.assertEqual([(each.index, each.task.id, each.handle.id) for each in sent],
                                 [(i, f"t{i}", f"t{i}") for i in range(201)])
                self.assertEqual(self.gateway.sizes(), [sizes])

    def test_none_waits_for_others_to_share_a_message(self):
        self.gateway.answers = [taking(None, credit=1000, max_tasks=100)]
        told = threading.Semaphore(0)

        def tasks():
            for _ in range(3):
                yield Task("add")
                told.acquire()

        for _ in self.client.stream(tasks()):
            told.release()
        self.assertEqual(self.gateway.sizes(), [[0, 0, 0]])

    def test_a_message_is_no_larger_than_a_gateway_takes(self):
        ready = threading.Event()

        def tasks():
            for size in [200_000] * 7 + [2_000_000] + [200_000] * 6:
                yield Task("add", "x" * size)
            ready.set()

        self.gateway.answers = [taking(None, credit=1000, max_tasks=100, ready=ready)]
        self.assertEqual(len(list(self.client.stream(tasks()))), 14)
        self.assertEqual(self.gateway.sizes(), [[5, 2, 0, 5, 0]])

    def test_a_stream_that_breaks_amid_several_goes_on(self):
        ready = threading.Event()
        # Each gateway says for itself how many it takes.
        self.gateway.answers = [
            taking(1, Refused(UNAVAILABLE, "DRAINING"), credit=10, max_tasks=5, ready=ready),
            taking(2, Refused(grpc.StatusCode.CANCELLED), credit=10),
            taking(None, credit=10, max_tasks=7)]
        sent = list(self.client.stream(numbered(20, ready)))
        self.assertEqual(sorted(each.handle.id for each in sent),
                         sorted(f"t{i}" for i in range(20)))
        first, second, third = self.gateway.sizes()
        self.assertEqual((first[:2], set(second), third[0]), ([5, 5], {0}, 7))

    def test_one_of_several_that_may_pass_goes_again(self):
        ready = threading.Event()
        second = threading.Event()  # message of the first stream

        def refusing(requests):
            def watched():
                for number, request in enumerate(requests):
                    if number == 1:
                        second.set()
                    yield request

            return taking(None, credit=3, max_tasks=3, ready=ready,
                          refusals=REFUSALS)(watched())

        self.gateway.answers = [refusing, taking(None, credit=3, max_tasks=3)]
        sent = []
        for each in self.client.stream(numbered(4, ready)):
            if not sent:  # "t3" would go at once, if it went there
                self.assertFalse(second.wait(0.2))
            sent.append(each)
        self.assertEqual([each.index for each in sent], [1, 2, 0, 3])
        self.assertEqual(sent[0].error.reason, "INVALID_FIELD")
        self.assertEqual([each.handle.id for each in sent[1:]], ["t2", "t0", "t3"])
        self.assertEqual([[each.task.id for request in stream for each in tasks_of(request)]
                          for stream in self.gateway.streams],
                         [["t0", "t1", "t2"], ["t0", "t3"]])

    def test_a_task_that_may_pass_goes_again_under_its_id(self):
        seen = []

        def late(requests):
            yield pb.StreamTasksResponse(credit=2)
            for request in requests:
                seen.append(request.task.id)
                yield pb.StreamTasksResponse(
                    sequence=request.sequence, credit=1,
                    status=status(UNAVAILABLE, "BROKER_UNAVAILABLE"))

        self.gateway.answers = [late, taking(None)]
        [sent] = self.client.stream([Task("add")])
        self.assertEqual(seen, [sent.handle.id])

    def test_a_task_that_is_refused(self):
        def refusing(requests):
            yield pb.StreamTasksResponse(credit=5)
            for request in requests:
                yield pb.StreamTasksResponse(
                    sequence=request.sequence, credit=1,
                    status=status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"))

        self.gateway.answers = [refusing]
        [sent] = self.client.stream([Task("")])
        self.assertIsNone(sent.handle)
        self.assertEqual(sent.error.reason, "INVALID_FIELD")

    def test_no_more_than_the_credit(self):
        fourth = threading.Event()
        too_early = []

        def slow(requests):
            yield pb.StreamTasksResponse(credit=3)
            first = [next(requests) for _ in range(3)]

            def take():
                first.append(next(requests))
                fourth.set()

            taker = threading.Thread(target=take)
            taker.start()
            # Nothing tells that it does not come; where it does, it comes at once.
            too_early.append(fourth.wait(0.3))
            yield pb.StreamTasksResponse(sequence=first.pop(0).sequence, task_id="a", credit=1)
            taker.join()
            for request in first:
                yield pb.StreamTasksResponse(sequence=request.sequence, task_id="b")

        self.gateway.answers = [slow]
        self.assertEqual(len(list(self.client.stream(Task("add") for _ in range(4)))), 4)
        self.assertEqual(too_early, [False])

    def test_an_error_of_the_program_comes_back_to_it(self):
        def tasks():
            yield Task("add")
            raise KeyError("mine")

        self.gateway.answers = [taking(None)]
        stream = self.client.stream(tasks())
        self.assertEqual(next(stream).index, 0)
        with self.assertRaises(KeyError):
            next(stream)

    def test_a_stream_that_is_left(self):
        self.gateway.answers = [taking(None)]
        stream = self.client.stream(Task("add") for _ in iter(int, 1))
        next(stream)
        stream.close()


class WithAsyncio(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.gateway = FakeGateway()
        self.addCleanup(self.gateway.stop)
        self.client = aio.Client(self.gateway.address)
        self.addAsyncCleanup(self.client.close)

    async def test_repeats_are_one_call(self):
        self.gateway.answers = [refused(UNAVAILABLE, "DRAINING"), accepted]
        self.assertEqual((await self.client.send("add", 1)).id, "task_1")
        self.assertEqual(len({request.request_id for request, _ in self.gateway.calls}), 1)

    async def test_waits_until_it_is_final(self):
        self.gateway.answers = [state_answer("PENDING"), state_answer("SUCCESS", "t", 4)]
        self.assertEqual(await self.client.task("t").result(20), 4)
        self.gateway.answers = [state_answer("PENDING")]
        with self.assertRaises(penstock.ResultTimeout):
            await self.client.task("t").result(0.1)

    async def test_a_run_is_one_call(self):
        self.gateway.answers = [sent_answer("SUCCESS", "t", 3)]
        self.assertEqual(await self.client.run("add", 1, 2, timeout=7), 3)
        self.assertEqual(len(self.gateway.calls), 1)
        self.gateway.answers = [sent_answer("FAILURE", "t", message="bad")]
        with self.assertRaises(penstock.TaskFailed):
            await self.client.run("add")

    async def test_a_run_that_has_not_ended_is_waited_for(self):
        self.gateway.answers = [accepted, state_answer("PENDING"),
                                state_answer("SUCCESS", "t", 3)]
        self.assertEqual(await self.client.run("add", timeout=20), 3)
        self.gateway.answers = [sent_answer("STARTED", "t"), state_answer("STARTED")]
        with self.assertRaises(penstock.ResultTimeout):
            await self.client.run("add", timeout=0.1)

    async def test_the_results_of_a_group_wait_for_it(self):
        answers = [messages_pb2.GroupState(group_id="g", total=1),
                   messages_pb2.GroupState(group_id="g", total=1, done=True)]
        members = messages_pb2.GroupState(group_id="g", total=1,
                                          tasks=[state("SUCCESS", "a", 1)])
        self.gateway.answers = [lambda request: pb.GetGroupStateResponse(
            group=members if request.include_tasks else answers.pop(0))]
        self.assertEqual(await self.client.group("g").results(10), [1])
        self.assertEqual(answers, [])

    async def test_a_watch_is_taken_up_again(self):
        def first(_):
            yield pb.WatchStateResponse(state=state("STARTED"))
            raise Refused(UNAVAILABLE, "DRAINING")

        def second(_):
            yield pb.WatchStateResponse(state=state("STARTED"))
            yield pb.WatchStateResponse(state=state("FAILURE", message="bad"))

        self.gateway.answers = [first, second]
        seen = [each.status.name async for each in self.client.task("task_1").watch()]
        self.assertEqual(seen, ["STARTED", "FAILURE"])

    async def test_a_stream_that_breaks_goes_on(self):
        self.gateway.answers = [taking(3, Refused(UNAVAILABLE, "DRAINING")), taking(None)]

        async def tasks():
            for i in range(20):
                yield Task("add", i)

        sent = [each async for each in self.client.stream(tasks())]
        self.assertEqual(sorted(each.index for each in sent), list(range(20)))

    async def test_those_that_are_ready_share_a_message(self):
        for max_tasks, sizes in [(100, [100, 100, 0]), (0, [0] * 201)]:
            ready = threading.Event()
            self.gateway.streams.clear()
            self.gateway.answers = [
                taking(None, credit=1000, max_tasks=max_tasks, ready=ready)]
            sent = [each async for each in self.client.stream(numbered(201, ready))]
            self.assertEqual([each.handle.id for each in sent], [f"t{i}" for i in range(201)])
            self.assertEqual(self.gateway.sizes(), [sizes])

    async def test_a_stream_that_breaks_amid_several_goes_on(self):
        ready = threading.Event()
        self.gateway.answers = [
            taking(1, Refused(UNAVAILABLE, "DRAINING"), credit=10, max_tasks=5, ready=ready),
            taking(2, Refused(UNAVAILABLE, "DRAINING"), credit=10),
            taking(None, credit=10, max_tasks=7)]
        sent = [each async for each in self.client.stream(numbered(20, ready))]
        self.assertEqual(sorted(each.handle.id for each in sent),
                         sorted(f"t{i}" for i in range(20)))
        first, second, third = self.gateway.sizes()
        self.assertEqual((first[:2], set(second), third[0]), ([5, 5], {0}, 7))

    async def test_one_of_several_that_may_pass_goes_again(self):
        ready = threading.Event()
        self.gateway.answers = [
            taking(None, credit=3, max_tasks=3, ready=ready, refusals=REFUSALS),
            taking(None, credit=3, max_tasks=3)]
        sent = [each async for each in self.client.stream(numbered(3, ready))]
        self.assertEqual([(each.index, each.error is None) for each in sent],
                         [(1, False), (2, True), (0, True)])
        self.assertEqual(self.gateway.sizes(), [[3], [0]])

    async def test_a_stream_of_a_list(self):
        self.gateway.answers = [taking(None)]
        sent = [each async for each in self.client.stream([Task("add"), Task("add")])]
        self.assertEqual(len(sent), 2)

    async def test_an_error_of_the_program_comes_back_to_it(self):
        self.gateway.answers = [taking(None)]
        with self.assertRaisesRegex(TypeError, "argument 1 of 'add'"):
            async for _ in self.client.stream([Task("add", None)]):
                pass

    async def test_cancelling_the_program_is_not_repeated(self):
        waiting = asyncio.Event()
        loop = asyncio.get_running_loop()
        release = threading.Event()
        self.addCleanup(release.set)

        def slow(_):
            loop.call_soon_threadsafe(waiting.set)
            release.wait()
            return pb.GetStateResponse()

        self.gateway.answers = [slow]
        task = asyncio.create_task(self.client.task("t").result())
        await waiting.wait()
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertEqual(len(self.gateway.calls), 1)


class Parts(unittest.TestCase):
    def test_pauses_grow_and_are_as_long_as_the_gateway_says(self):
        retry = Retry(1000)
        error = penstock.Unavailable(status(UNAVAILABLE, "DRAINING"))
        pauses = [retry.pause_after(error) for _ in range(8)]
        for pause, longest in zip(pauses, [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2, 2]):
            self.assertTrue(longest / 2 <= pause <= longest, pauses)
        full = penstock.CallError(status(EXHAUSTED, "TOO_MANY_IN_FLIGHT", delay=5))
        self.assertEqual(retry.pause_after(full), 5)

    def test_addresses(self):
        for addresses, target in [
            ("gateway:1", "gateway:1"),
            ("dns:///gateway:1", "dns:///gateway:1"),
            ("127.0.0.1:1, 127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
            (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
        ]:
            self.assertEqual(channel_arguments(addresses, None)[0], target)
        for addresses in ([], ["127.0.0.1:1", "127.0.0.1"], ["127.0.0.1:1", "[::1]:1"]):
            with self.assertRaises(ValueError):
                channel_arguments(addresses, None)

    def test_metadata_of_a_call_replaces_the_clients(self):
        self.assertEqual(metadata_list({"A": "1", "b": "2"}, [("a", "3"), ("a", "4")]),
                         [("a", "3"), ("a", "4"), ("b", "2")])


class WithTls(unittest.TestCase):
    @property
    def path(self):
        return CERTIFICATES

    def serve(self, **more):
        pair = ((self.path / "ours.key").read_bytes(), (self.path / "ours.pem").read_bytes())
        gateway = FakeGateway(grpc.ssl_server_credentials([pair], **more))
        self.addCleanup(gateway.stop)
        gateway.answers = [accepted]
        return gateway

    def client(self, gateway, **options):
        client = penstock.Client(gateway.address, retry_budget=0, tls=penstock.Tls(**options))
        self.addCleanup(client.close)
        return client

    def test_a_gateway_of_a_known_authority(self):
        client = self.client(self.serve(), ca_file=self.path / "ours.pem",
                             server_name="gateway.test")
        self.assertEqual(client.send("add").id, "task_1")

    def test_others_are_refused(self):
        for options in ({"ca_file": self.path / "other.pem", "server_name": "gateway.test"},
                        {"ca_file": self.path / "ours.pem", "server_name": "else.test"},
                        {"server_name": "gateway.test"}):
            with self.subTest(**options), self.assertRaises(penstock.Unavailable):
                self.client(self.serve(), **options).send("add")

    def test_a_gateway_that_asks_for_a_certificate(self):
        gateway = self.serve(root_certificates=(self.path / "other.pem").read_bytes(),
                             require_client_auth=True)
        known = {"ca_file": self.path / "ours.pem", "server_name": "gateway.test"}
        client = self.client(gateway, cert_file=self.path / "other.pem",
                             key_file=self.path / "other.key", **known)
        self.assertEqual(client.send("add").id, "task_1")
        with self.assertRaises(penstock.Unavailable):
            self.client(gateway, **known).send("add")
        with self.assertRaises(ValueError):
            self.client(gateway, cert_file=self.path / "other.pem")


if __name__ == "__main__":
    unittest.main()
