package dev.penstock;

import static dev.penstock.v1.TaskStatus.TASK_STATUS_CANCELLED;
import static dev.penstock.v1.TaskStatus.TASK_STATUS_FAILURE;
import static dev.penstock.v1.TaskStatus.TASK_STATUS_PENDING;
import static dev.penstock.v1.TaskStatus.TASK_STATUS_STARTED;
import static dev.penstock.v1.TaskStatus.TASK_STATUS_SUCCESS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.BadRequest;
import com.google.rpc.RetryInfo;
import dev.penstock.v1.BatchSendTasksRequest;
import dev.penstock.v1.BatchSendTasksResponse;
import dev.penstock.v1.CancelGroupResponse;
import dev.penstock.v1.GetGroupStateResponse;
import dev.penstock.v1.GetStateRequest;
import dev.penstock.v1.GetStateResponse;
import dev.penstock.v1.Keepalive;
import dev.penstock.v1.SendTaskResult;
import dev.penstock.v1.TaskStatus;
import dev.penstock.v1.WatchStateResponse;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Status.Code;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class ClientTest {
  private FakeGateway gateway;
  private Client client;

  @BeforeEach
  void open() throws Exception {
    gateway = new FakeGateway();
    client = gateway.client();
  }

  @AfterEach
  void close() throws Exception {
    client.close();
    gateway.close();
  }

  private static void reply(StreamObserver<GetStateResponse> out, TaskStatus status) {
    out.onNext(GetStateResponse.newBuilder().setState(FakeGateway.state(status)).build());
    out.onCompleted();
  }

  private static WatchStateResponse news(TaskStatus status) {
    return WatchStateResponse.newBuilder().setState(FakeGateway.state(status)).build();
  }

  // ---- One call ---------------------------------------------------------------

  @Test
  void aSendIsRepeatedUnderOneRequestId() {
    gateway.onSend =
        n -> {
          if (n < 2) throw FakeGateway.error(Code.UNAVAILABLE, "BROKER_UNAVAILABLE");
          return FakeGateway.accepted("t");
        };
    assertEquals("t", client.send("add", 1).id());
    assertEquals(3, gateway.sends.size());
    assertEquals(gateway.sends.get(0), gateway.sends.get(2));
    assertFalse(gateway.sends.get(0).getRequestId().isEmpty());
  }

  @Test
  void eachSendHasARequestIdOfItsOwn() {
    client.send("add", 1);
    client.send("add", 1);
    client.withRequestId("mine").send("add", 1);
    assertNotEquals(gateway.sends.get(0).getRequestId(), gateway.sends.get(1).getRequestId());
    assertEquals("mine", gateway.sends.get(2).getRequestId());
  }

  @Test
  void aRunIsOneCall() {
    gateway.onSend =
        n -> {
          if (n == 0) throw FakeGateway.error(Code.UNAVAILABLE, "DRAINING");
          return FakeGateway.ended(TASK_STATUS_SUCCESS);
        };
    assertEquals(2L, client.run(Task.of("add", 1, 1), Duration.ofSeconds(7)));
    assertEquals(2, gateway.sends.size());
    assertEquals(gateway.sends.get(0).getRequestId(), gateway.sends.get(1).getRequestId());
    assertEquals(7, gateway.sends.get(0).getWait().getSeconds());
    assertFalse(gateway.sends.get(1).hasWait()); // or it might take twice as long
  }

  @Test
  void aRunIsRepeatedWhileItsTimeLasts() {
    gateway.onSend =
        n -> {
          throw FakeGateway.error(Code.UNAVAILABLE, "DRAINING");
        };
    Task task = Task.of("add");
    assertThrows(RpcException.class, () -> client.run(task, Duration.ofMillis(200)));
    int tries = gateway.sends.size();
    assertTrue(tries > 1);
    assertThrows(
        RpcException.class,
        () -> client.withRetryBudget(Duration.ZERO).run(task, Duration.ofSeconds(5)));
    assertEquals(tries + 1, gateway.sends.size());
    gateway.onSend = n -> FakeGateway.accepted("t");
    gateway.onGetState = (request, out) -> reply(out, TASK_STATUS_STARTED);
    assertThrows(ResultTimeoutException.class, () -> client.run(task, Duration.ofMillis(-1)));
  }

  @Test
  void howARunEnded() {
    gateway.onSend =
        n -> FakeGateway.ended(n == 0 ? TASK_STATUS_FAILURE : TASK_STATUS_CANCELLED);
    Duration hour = Duration.ofHours(1);
    assertThrows(TaskFailedException.class, () -> client.run(Task.of("add"), hour));
    assertThrows(TaskCancelledException.class, () -> client.run(Task.of("add"), hour));
    assertEquals(30, gateway.sends.get(0).getWait().getSeconds());
  }

  @Test
  void aRunThatHasNotEndedIsWaitedFor() {
    gateway.onSend =
        n -> n == 0 ? FakeGateway.accepted("t") : FakeGateway.ended(TASK_STATUS_STARTED);
    gateway.onGetState = (request, out) -> reply(out, TASK_STATUS_SUCCESS);
    Duration hour = Duration.ofHours(1);
    assertEquals(2L, client.run(Task.of("add", 1, 1), hour));
    assertEquals(2L, client.run(Task.of("add", 1, 1), hour));
    gateway.onGetState = (request, out) -> reply(out, TASK_STATUS_STARTED);
    ResultTimeoutException late =
        assertThrows(
            ResultTimeoutException.class,
            () -> client.run(Task.of("add"), Duration.ofMillis(50)));
    assertTrue(late.getMessage().endsWith("within PT0.05S"), late.getMessage());
  }

  @Test
  void aRefusalIsToldInFullAndNotRepeated() {
    gateway.onSend =
        n -> {
          throw FakeGateway.error(
              Code.INVALID_ARGUMENT,
              "INVALID_FIELD",
              BadRequest.newBuilder()
                  .addFieldViolations(
                      BadRequest.FieldViolation.newBuilder()
                          .setField("task.name")
                          .setDescription("is required"))
                  .build());
        };
    RpcException error = assertThrows(RpcException.class, () -> client.send(""));
    assertEquals(Code.INVALID_ARGUMENT, error.code());
    assertEquals("INVALID_FIELD", error.reason());
    assertEquals("v", error.metadata().get("k"));
    assertEquals("INVALID_ARGUMENT INVALID_FIELD: text", error.getMessage());
    assertEquals("task.name: is required", error.fieldViolations().get(0).toString());
    assertEquals(1, gateway.sends.size());
    // The stack begins at the caller's, not at gRPC's thread.
    List<StackTraceElement> stack = List.of(error.getStackTrace());
    assertTrue(stack.stream().anyMatch(at -> at.getClassName().equals(getClass().getName())));
  }

  @Test
  void aFullGatewayIsGivenTheTimeItAsksFor() {
    RetryInfo info =
        RetryInfo.newBuilder().setRetryDelay(Protos.duration(Duration.ofMillis(400))).build();
    gateway.onSend =
        n -> {
          if (n == 0) throw FakeGateway.error(Code.RESOURCE_EXHAUSTED, "TOO_MANY_IN_FLIGHT", info);
          return FakeGateway.accepted("t");
        };
    long began = System.nanoTime();
    client.send("add");
    assertTrue(System.nanoTime() - began >= TimeUnit.MILLISECONDS.toNanos(400));
  }

  @Test
  void theRetryBudgetEndsTheRepeats() {
    gateway.onSend =
        n -> {
          throw FakeGateway.error(Code.UNAVAILABLE, "BACKEND_UNAVAILABLE");
        };
    Client hasty = client.withRetryBudget(Duration.ofMillis(500));
    RpcException error = assertThrows(RpcException.class, () -> hasty.send("add"));
    assertEquals("BACKEND_UNAVAILABLE", error.reason());
    assertTrue(gateway.sends.size() > 1);
    gateway.sends.clear();
    Client once = client.withRetryBudget(Duration.ZERO);
    assertThrows(RpcException.class, () -> once.send("add"));
    assertEquals(1, gateway.sends.size());
  }

  @Test
  void theDeadlineEndsACall() {
    gateway.onSend = n -> null;
    Client hasty = client.withDeadline(Duration.ofMillis(200));
    RpcException error = assertThrows(RpcException.class, () -> hasty.send("add"));
    assertEquals(Code.DEADLINE_EXCEEDED, error.code());
    assertEquals(1, gateway.sends.size());
  }

  @Test
  void metadataGoesWithTheCall() {
    Metadata.Key<String> tenant = Metadata.Key.of("tenant", Metadata.ASCII_STRING_MARSHALLER);
    Metadata.Key<String> trace = Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER);
    try (Client own = Client.builder(gateway.address()).metadata("tenant", "a").build()) {
      own.withMetadata("traceparent", "00-1").send("add");
      own.send("add");
    }
    assertEquals("a", gateway.headers.get(0).get(tenant));
    assertEquals("00-1", gateway.headers.get(0).get(trace));
    assertEquals("a", gateway.headers.get(1).get(tenant));
    assertEquals(null, gateway.headers.get(1).get(trace));
  }

  @Test
  void aCancelledFutureEndsTheCall() throws Exception {
    CountDownLatch begun = new CountDownLatch(1);
    CountDownLatch ended = new CountDownLatch(1);
    gateway.onGetState =
        (request, out) -> {
          ((ServerCallStreamObserver<GetStateResponse>) out).setOnCancelHandler(ended::countDown);
          begun.countDown();
        };
    CompletableFuture<Object> result = client.task("t").resultAsync();
    begun.await();
    result.cancel(false);
    assertTrue(ended.await(10, TimeUnit.SECONDS));
  }

  @Test
  void aClosedClientDoesNotGoOnTrying() {
    client.close();
    long began = System.nanoTime();
    assertThrows(RpcException.class, () -> client.send("add"));
    assertTrue(System.nanoTime() - began < TimeUnit.SECONDS.toNanos(10));
  }

  // ---- Addresses --------------------------------------------------------------

  @Test
  void callsGoRoundOverTheAddresses() throws Exception {
    try (FakeGateway other = new FakeGateway();
        Client both = Client.connect(gateway.address(), other.address())) {
      // Until both are connected, the first one may get all.
      while (gateway.sends.isEmpty() || other.sends.isEmpty()) both.send("add");
      gateway.sends.clear();
      other.sends.clear();
      for (int i = 0; i < 10; ++i) both.send("add");
      assertEquals(5, gateway.sends.size());
      assertEquals(5, other.sends.size());
    }
  }

  @Test
  void anAddressThatIsAwayIsLeftOut() throws Exception {
    try (ServerSocket closed = new ServerSocket(0)) {
      String away = "127.0.0.1:" + closed.getLocalPort();
      closed.close();
      try (Client both = Client.connect(away, gateway.address())) {
        for (int i = 0; i < 20; ++i) both.send("add");
      }
    }
    assertEquals(20, gateway.sends.size());
  }

  @Test
  void aGatewayThatComesBackIsFoundSoon() throws Exception {
    client.send("add");
    int port = gateway.port();
    gateway.close();
    CompletableFuture<TaskHandle> sent = client.sendAsync("add");
    // Past the first reconnects, whose pauses are short anyway.
    assertThrows(
        java.util.concurrent.TimeoutException.class, () -> sent.get(5, TimeUnit.SECONDS));
    gateway = new FakeGateway(port, InsecureServerCredentials.create());
    sent.get(3, TimeUnit.SECONDS);
  }

  @Test
  void wrongAddressesAreRefused() {
    assertThrows(IllegalArgumentException.class, () -> Client.connect());
    assertThrows(IllegalArgumentException.class, () -> Client.connect("a:1", "b"));
    assertThrows(IllegalArgumentException.class, () -> Client.connect("a:1", "dns:///b:1"));
    assertEquals("dns:///a:1", AddressList.target(List.of("a:1")));
    assertEquals("dns:///p:1", AddressList.target(List.of("dns:///p:1")));
    assertEquals(
        "penstock-list:///a_b:1,%5B::1%5D:2", AddressList.target(List.of("a_b:1", "[::1]:2")));
  }

  // ---- Results ----------------------------------------------------------------

  @Test
  void aResultIsWaitedForAgainWhenTheGatewayEndsTheWait() {
    List<GetStateRequest> asked = new CopyOnWriteArrayList<>();
    gateway.onGetState =
        (request, out) -> {
          asked.add(request);
          reply(out, asked.size() < 3 ? TASK_STATUS_STARTED : TASK_STATUS_SUCCESS);
        };
    long began = System.nanoTime();
    assertEquals(2L, client.send("add").result(Long.class));
    assertEquals(3, asked.size());
    assertEquals(30, asked.get(0).getWait().getSeconds());
    // It paused twice, for the waits ended early.
    assertTrue(System.nanoTime() - began >= TimeUnit.MILLISECONDS.toNanos(200));
  }

  @Test
  void aResultThatIsLateTimesOut() {
    gateway.onGetState = (request, out) -> reply(out, TASK_STATUS_PENDING);
    TaskHandle handle = client.task("t");
    assertThrows(ResultTimeoutException.class, () -> handle.result(Duration.ofMillis(300)));
    assertThrows(ResultTimeoutException.class, () -> handle.result(Duration.ZERO));
  }

  @Test
  void aWaitOutlivesAGatewayThatIsAway() {
    List<GetStateRequest> asked = new CopyOnWriteArrayList<>();
    gateway.onGetState =
        (request, out) -> {
          asked.add(request);
          if (asked.size() < 3) out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
          else reply(out, TASK_STATUS_SUCCESS);
        };
    assertEquals(2L, client.task("t").result());
  }

  @Test
  void aWaitThatEndsWhileTheGatewayIsAwayTimesOut() {
    gateway.onGetState =
        (request, out) -> out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
    ResultTimeoutException error =
        assertThrows(
            ResultTimeoutException.class,
            () -> client.task("t").result(Duration.ofMillis(300)));
    assertEquals("DRAINING", ((RpcException) error.getCause()).reason());
  }

  @Test
  void aResultOfAnotherClassIsNamed() {
    gateway.onGetState = (request, out) -> reply(out, TASK_STATUS_SUCCESS);
    TaskHandle handle = client.task("t");
    assertThrows(ClassCastException.class, () -> handle.result(String.class));
    assertEquals(java.math.BigInteger.TWO, handle.result(java.math.BigInteger.class));
  }

  @Test
  void aFailureOfAFutureIsItsCause() {
    gateway.onGetState =
        (request, out) -> out.onError(FakeGateway.error(Code.NOT_FOUND, "TASK_NOT_FOUND"));
    ExecutionException error =
        assertThrows(ExecutionException.class, () -> client.task("t").resultAsync().get());
    assertEquals("TASK_NOT_FOUND", assertInstanceOf(RpcException.class, error.getCause()).reason());
  }

  // ---- Groups -----------------------------------------------------------------

  /** A group that is done at the second look, of these members, one on each page. */
  private void group(TaskStatus... members) {
    AtomicInteger looks = new AtomicInteger();
    gateway.onGetGroupState =
        request -> {
          GetGroupStateResponse.Builder out = GetGroupStateResponse.newBuilder();
          if (!request.getIncludeTasks()) {
            out.getGroupBuilder().setDone(looks.incrementAndGet() > 1).setTotal(members.length);
            return out.build();
          }
          int page = request.getPageToken().isEmpty() ? 0 : Integer.parseInt(request.getPageToken());
          out.getGroupBuilder().addTasks(FakeGateway.state(members[page]));
          if (page + 1 < members.length) out.setNextPageToken("" + (page + 1));
          return out.build();
        };
  }

  @Test
  void theResultsOfAGroupAreReadPageByPage() {
    group(TASK_STATUS_SUCCESS, TASK_STATUS_SUCCESS, TASK_STATUS_SUCCESS);
    assertEquals(List.of(2L, 2L, 2L), client.group("g").results(Duration.ofSeconds(10)));
  }

  @Test
  void theFirstMemberOfAGroupThatFailedIsThrown() {
    group(TASK_STATUS_SUCCESS, TaskStatus.TASK_STATUS_CANCELLED, TaskStatus.TASK_STATUS_FAILURE);
    assertThrows(TaskCancelledException.class, () -> client.group("g").results());
  }

  @Test
  void aMemberThatHasExpiredIsNotTakenForAResult() {
    group(TASK_STATUS_SUCCESS, TaskStatus.TASK_STATUS_UNSPECIFIED);
    RpcException error = assertThrows(RpcException.class, () -> client.group("g").results());
    assertEquals("TASK_NOT_FOUND", error.reason());
  }

  @Test
  void aGroupIsCancelled() {
    gateway.onCancelGroup =
        request -> {
          assertEquals("g enough", request.getGroupId() + " " + request.getReason());
          return CancelGroupResponse.newBuilder().setCancelledCount(3).build();
        };
    assertEquals(3, client.group("g").cancel("enough"));
  }

  // ---- Watch ------------------------------------------------------------------

  @Test
  void aWatchThatBreaksIsTakenUpAgain() {
    List<StreamObserver<WatchStateResponse>> calls = new CopyOnWriteArrayList<>();
    gateway.onWatch =
        (request, out) -> {
          calls.add(out);
          if (calls.size() == 1) {
            out.onNext(news(TASK_STATUS_PENDING));
            out.onNext(
                WatchStateResponse.newBuilder()
                    .setKeepalive(Keepalive.getDefaultInstance())
                    .build());
            out.onNext(news(TASK_STATUS_STARTED));
            out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
          } else {
            out.onNext(news(TASK_STATUS_STARTED));
            out.onNext(news(TASK_STATUS_SUCCESS));
            out.onCompleted();
          }
        };
    List<String> seen = new ArrayList<>();
    try (Watch watch = client.task("t").watch()) {
      for (TaskState state : watch) seen.add(state.status().name());
    }
    assertEquals(List.of("PENDING", "STARTED", "SUCCESS"), seen);
  }

  @Test
  void aWatchThatIsClosedEndsItsCall() throws Exception {
    CountDownLatch ended = new CountDownLatch(1);
    gateway.onWatch =
        (request, out) -> {
          ((ServerCallStreamObserver<WatchStateResponse>) out).setOnCancelHandler(ended::countDown);
          out.onNext(news(TASK_STATUS_PENDING));
        };
    try (Watch watch = client.task("t").watch()) {
      assertEquals(dev.penstock.TaskStatus.PENDING, watch.next().status());
    }
    assertTrue(ended.await(10, TimeUnit.SECONDS));
  }

  @Test
  void aWatchThatFailsThrows() {
    gateway.onWatch =
        (request, out) -> out.onError(FakeGateway.error(Code.NOT_FOUND, "TASK_NOT_FOUND"));
    try (Watch watch = client.task("t").watch()) {
      assertEquals(
          "TASK_NOT_FOUND", assertThrows(RpcException.class, watch::hasNext).reason());
    }
  }

  @Test
  void aWatchWithoutBlockingEndsWithTheFinalState() throws Exception {
    gateway.onWatch =
        (request, out) -> {
          out.onNext(news(TASK_STATUS_PENDING));
          out.onNext(news(TASK_STATUS_SUCCESS));
          out.onCompleted();
        };
    List<TaskState> seen = new CopyOnWriteArrayList<>();
    TaskState last = client.task("t").watchAsync(seen::add).get();
    assertEquals(2L, last.result());
    assertEquals(2, seen.size());
  }

  // ---- Many -------------------------------------------------------------------

  @Test
  void whatABatchLeftOutIsSentByTheSameCall() {
    List<BatchSendTasksRequest> calls = new CopyOnWriteArrayList<>();
    gateway.onBatch =
        request -> {
          calls.add(request);
          boolean again = calls.size() > 1;
          SendTaskResult late =
              again
                  ? SendTaskResult.newBuilder().setTaskId("b").build()
                  : SendTaskResult.newBuilder()
                      .setStatus(FakeGateway.status(Code.UNAVAILABLE, "BROKER_NACK"))
                      .build();
          return BatchSendTasksResponse.newBuilder()
              .addResults(SendTaskResult.newBuilder().setTaskId("a").setReplayed(again))
              .addResults(late)
              .addResults(
                  SendTaskResult.newBuilder()
                      .setStatus(FakeGateway.status(Code.INVALID_ARGUMENT, "INVALID_FIELD")))
              .build();
        };
    List<SendResult> results =
        client.sendMany(List.of(Task.of("x"), Task.of("y"), Task.of("")));
    assertEquals(2, calls.size());
    assertEquals(calls.get(0), calls.get(1));
    assertEquals("a", results.get(0).handle().id());
    assertFalse(results.get(0).handle().replayed());
    assertEquals("b", results.get(1).handle().id());
    assertEquals("INVALID_FIELD", results.get(2).error().orElseThrow().reason());
    assertThrows(RpcException.class, () -> results.get(2).handle());
  }

  @Test
  void aLaterCallThatFailsIsToldOfItsTasks() {
    gateway.onBatch =
        request -> {
          if (request.getRequestId().endsWith(".1")) {
            throw FakeGateway.error(Code.INVALID_ARGUMENT, "INVALID_FIELD");
          }
          return BatchSendTasksResponse.newBuilder()
              .addAllResults(
                  Collections.nCopies(
                      request.getTasksCount(), SendTaskResult.newBuilder().setTaskId("a").build()))
              .build();
        };
    List<SendResult> results = client.sendMany(Collections.nCopies(2500, Task.of("x")));
    assertEquals(2500, results.size());
    assertTrue(results.get(999).isAccepted());
    assertFalse(results.get(1000).isAccepted());
    assertFalse(results.get(2499).isAccepted());
  }

  @Test
  void manyTasksGoInCallsOfAThousand() {
    List<BatchSendTasksRequest> calls =
        BatchSend.split(Collections.nCopies(2001, Task.of("x")), "id");
    assertEquals(3, calls.size());
    assertEquals(1000, calls.get(0).getTasksCount());
    assertEquals(1, calls.get(2).getTasksCount());
    assertEquals("id", calls.get(0).getRequestId());
    assertEquals("id.2", calls.get(2).getRequestId());
    Task large = Task.of("x", new byte[1 << 20]);
    assertEquals(2, BatchSend.split(Collections.nCopies(40, large), "id").size());
    assertEquals(0, BatchSend.split(List.of(), "id").size());
  }
}
