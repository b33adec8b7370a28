package dev.penstock;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.penstock.v1.StreamTasksRequest;
import dev.penstock.v1.StreamTasksResponse;
import io.grpc.Status.Code;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class TaskStreamTest {
  /** One stream at the gateway, whose answers the test gives. */
  private static final class Accepted implements StreamObserver<StreamTasksRequest> {
    final StreamObserver<StreamTasksResponse> out;
    final LinkedBlockingQueue<StreamTasksRequest> tasks = new LinkedBlockingQueue<>(); // messages
    volatile boolean accepts; // all that comes

    Accepted(StreamObserver<StreamTasksResponse> out) {
      this.out = out;
    }

    void credit(int credit) {
      begin(credit, 0);
    }

    void begin(int credit, int maxTasks) {
      out.onNext(
          StreamTasksResponse.newBuilder().setCredit(credit).setMaxTasks(maxTasks).build());
    }

    void accept(StreamTasksRequest message) {
      out.onNext(FakeGateway.answer(message));
    }

    void refuse(StreamTasksRequest task, Code code, String reason) {
      out.onNext(FakeGateway.answer(task, FakeGateway.status(code, reason)));
    }

    StreamTasksRequest take() throws InterruptedException {
      return tasks.take();
    }

    @Override
    public void onNext(StreamTasksRequest task) {
      tasks.add(task);
      if (accepts) accept(task);
    }

    @Override
    public void onError(Throwable error) {}

    @Override
    public void onCompleted() {
      out.onCompleted();
    }
  }

  private FakeGateway gateway;
  private Client client;
  private final LinkedBlockingQueue<Accepted> streams = new LinkedBlockingQueue<>();

  @BeforeEach
  void open() throws Exception {
    gateway = new FakeGateway();
    client = gateway.client();
    gateway.onStream =
        out -> {
          Accepted stream = new Accepted(out);
          streams.add(stream);
          return stream;
        };
  }

  @AfterEach
  void close() throws Exception {
    client.close();
    gateway.close();
  }

  /** Sends in the background, as send() blocks until there is credit. */
  private static CompletableFuture<CompletableFuture<TaskHandle>> send(TaskStream stream) {
    return CompletableFuture.supplyAsync(
        () -> stream.send("add", 1), task -> new Thread(task).start());
  }

  /** Streams begin so, and read nothing before {@link #read}. */
  private void hold(int credit, int maxTasks) {
    gateway.onStream =
        out -> {
          ((ServerCallStreamObserver<StreamTasksResponse>) out).disableAutoRequest();
          Accepted stream = new Accepted(out);
          stream.begin(credit, maxTasks);
          streams.add(stream);
          return stream;
        };
  }

  private static void read(Accepted held) {
    ((ServerCallStreamObserver<StreamTasksResponse>) held.out).request(10_000);
  }

  /**
   * Sends a task that stays on its way until the gateway reads, as it is larger than what HTTP/2
   * lets it send ahead; and meanwhile others, with an argument of so many bytes.
   */
  private static List<CompletableFuture<TaskHandle>> sendBehind(
      TaskStream stream, int count, int bytes) {
    List<CompletableFuture<TaskHandle>> sent = new ArrayList<>();
    for (int i = 0; i <= count; ++i) {
      Task.Builder task = Task.builder("add").args("x".repeat(i == 0 ? 2 << 20 : bytes));
      sent.add(stream.send(task.id("t" + i).build()));
    }
    return sent;
  }

  /** Takes so many messages: how many `tasks` each has, 0 for one in `task`. */
  private static List<Integer> sizes(Accepted at, int messages) throws InterruptedException {
    List<Integer> sizes = new ArrayList<>();
    for (int i = 0; i < messages; ++i) {
      StreamTasksRequest message = at.take();
      sizes.add(message.getTasksCount());
      at.accept(message);
    }
    return sizes;
  }

  private static void assertAccepted(List<CompletableFuture<TaskHandle>> sent) throws Exception {
    for (int i = 0; i < sent.size(); ++i) assertEquals("t" + i, sent.get(i).get().id());
  }

  @Test
  void tasksThatAreReadyTogetherShareAMessage() throws Exception {
    hold(1000, 100);
    TaskStream stream = client.stream();
    List<CompletableFuture<TaskHandle>> sent = sendBehind(stream, 100, 1);
    Accepted at = streams.take();
    read(at);
    assertEquals(List.of(0, 100), sizes(at, 2));
    // None waits for others.
    for (int i = 101; i < 104; ++i) {
      sent.add(stream.send(Task.builder("add").id("t" + i).build()));
      assertEquals(List.of(0), sizes(at, 1));
      sent.get(i).get();
    }
    stream.close();
    assertAccepted(sent);
  }

  @Test
  void aMessageHasNoMoreTasksThanTheCreditAllows() throws Exception {
    hold(3, 4);
    TaskStream stream = client.stream();
    List<CompletableFuture<TaskHandle>> sent = sendBehind(stream, 4, 1);
    CompletableFuture<CompletableFuture<TaskHandle>> blocked = send(stream);
    assertThrows(TimeoutException.class, () -> blocked.get(200, TimeUnit.MILLISECONDS));
    Accepted at = streams.take();
    read(at);
    StreamTasksRequest first = at.take();
    StreamTasksRequest second = at.take();
    assertEquals(2, second.getTasksCount());
    assertEquals(null, at.tasks.poll(200, TimeUnit.MILLISECONDS));
    at.accept(second);
    assertEquals(List.of(2, 0), sizes(at, 2));
    at.accept(first);
    blocked.get().get();
    stream.close();
    assertAccepted(sent);
  }

  @Test
  void aMessageIsNoLargerThanTheGatewayTakes() throws Exception {
    hold(1000, 100);
    TaskStream stream = client.stream();
    List<CompletableFuture<TaskHandle>> sent = sendBehind(stream, 5, 400_000);
    Accepted at = streams.take();
    read(at);
    assertEquals(List.of(0, 2, 2, 0), sizes(at, 4));
    stream.close();
    assertAccepted(sent);
  }

  @Test
  void aGatewayThatSaysNothingOfSeveralGetsMessagesOfOne() throws Exception {
    hold(1000, 0);
    TaskStream stream = client.stream();
    List<CompletableFuture<TaskHandle>> sent = sendBehind(stream, 20, 1);
    Accepted at = streams.take();
    read(at);
    assertEquals(Collections.nCopies(21, 0), sizes(at, 21));
    stream.close();
    assertAccepted(sent);
  }

  @Test
  void veryManyTasksGetTheirAnswers() throws Exception {
    hold(1000, 100);
    TaskStream stream = client.stream();
    List<CompletableFuture<TaskHandle>> sent = sendBehind(stream, 100, 1);
    Accepted at = streams.take();
    at.accepts = true;
    read(at);
    for (int i = 101; i < 5000; ++i) {
      sent.add(stream.send(Task.builder("add").id("t" + i).build()));
    }
    stream.close();
    assertAccepted(sent);
    int largest = 0;
    for (StreamTasksRequest message : at.tasks) {
      largest = Math.max(largest, message.getTasksCount());
    }
    assertEquals(100, largest);
  }

  @Test
  void aStreamThatBreaksAmidSeveralGoesOn() throws Exception {
    hold(10, 5);
    TaskStream stream = client.stream();
    List<CompletableFuture<TaskHandle>> sent = sendBehind(stream, 5, 1);
    Accepted at = streams.take();
    read(at);
    at.accept(at.take());
    assertEquals(5, at.take().getTasksCount());
    hold(10, 0); // each gateway says for itself how many it takes
    at.out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
    at = streams.take();
    read(at);
    for (int i = 1; i <= 5; ++i) assertEquals("t" + i, at.take().getTask().getId());
    hold(10, 7);
    at.out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
    at = streams.take();
    read(at);
    assertEquals(List.of(5), sizes(at, 1));
    stream.close();
    assertAccepted(sent);
    assertEquals(null, at.tasks.poll());
  }

  @Test
  void oneOfSeveralThatWasRefusedForNowIsSentAgainAlone() throws Exception {
    hold(10, 100);
    TaskStream stream = client.stream();
    List<CompletableFuture<TaskHandle>> sent = sendBehind(stream, 3, 1);
    LinkedBlockingQueue<String> told = new LinkedBlockingQueue<>();
    for (CompletableFuture<TaskHandle> each : sent) {
      each.whenComplete(
          (handle, error) ->
              told.add(error == null ? handle.id() : ((RpcException) error).reason()));
    }
    Accepted at = streams.take();
    read(at);
    at.accept(at.take());
    StreamTasksRequest several = at.take();
    at.out.onNext(
        FakeGateway.answer(
            several,
            FakeGateway.status(Code.UNAVAILABLE, "BROKER_UNAVAILABLE"),
            FakeGateway.status(Code.INVALID_ARGUMENT, "INVALID_FIELD")));
    StreamTasksRequest again = at.take();
    assertEquals(List.of(several.getTasks(0)), FakeGateway.tasksOf(again));
    assertEquals(0, again.getTasksCount());
    at.accept(again);
    stream.close();
    for (String next : List.of("t0", "INVALID_FIELD", "t3", "t1")) {
      assertEquals(next, told.take());
    }
    assertEquals(null, at.tasks.poll());
  }

  @Test
  void noMoreTasksAreSentThanTheCreditAllows() throws Exception {
    try (TaskStream stream = client.stream()) {
      List<CompletableFuture<CompletableFuture<TaskHandle>>> sent = new ArrayList<>();
      for (int i = 0; i < 3; ++i) sent.add(send(stream));
      Accepted at = streams.take();
      assertEquals(null, at.tasks.poll(200, TimeUnit.MILLISECONDS));
      at.credit(2);
      StreamTasksRequest first = at.take();
      StreamTasksRequest second = at.take();
      assertEquals(null, at.tasks.poll(200, TimeUnit.MILLISECONDS));
      at.accept(first);
      StreamTasksRequest third = at.take();
      at.accept(second);
      at.accept(third);
      for (CompletableFuture<CompletableFuture<TaskHandle>> each : sent) each.get().get();
    }
  }

  @Test
  void whatHasNoAnswerIsSentAgainUnderItsId() throws Exception {
    TaskStream stream = client.stream();
    List<CompletableFuture<CompletableFuture<TaskHandle>>> sent = new ArrayList<>();
    for (int i = 0; i < 2; ++i) sent.add(send(stream));
    Accepted broken = streams.take();
    broken.credit(10);
    StreamTasksRequest answered = broken.take();
    StreamTasksRequest lost = broken.take();
    broken.accept(answered);
    broken.out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
    Accepted next = streams.take();
    next.credit(10);
    StreamTasksRequest again = next.take();
    assertEquals(lost.getTask(), again.getTask());
    assertTrue(again.getTask().getId().startsWith("task_"));
    next.accept(again);
    stream.close();
    for (CompletableFuture<CompletableFuture<TaskHandle>> each : sent) {
      assertFalse(each.get().get().id().isEmpty());
    }
    assertEquals(null, next.tasks.poll());
  }

  @Test
  void aTaskThatWasRefusedForNowIsSentAgain() throws Exception {
    TaskStream stream = client.stream();
    CompletableFuture<CompletableFuture<TaskHandle>> sent = send(stream);
    Accepted at = streams.take();
    at.credit(10);
    StreamTasksRequest first = at.take();
    at.refuse(first, Code.UNAVAILABLE, "BROKER_UNAVAILABLE");
    StreamTasksRequest again = at.take();
    assertEquals(first, again);
    at.accept(again);
    stream.close();
    assertEquals(first.getTask().getId(), sent.get().get().id());
  }

  @Test
  void aTaskThatIsWrongIsToldAndTheStreamGoesOn() throws Exception {
    TaskStream stream = client.stream();
    CompletableFuture<CompletableFuture<TaskHandle>> bad = send(stream);
    Accepted at = streams.take();
    at.credit(10);
    at.refuse(at.take(), Code.INVALID_ARGUMENT, "INVALID_FIELD");
    ExecutionException error = assertThrows(ExecutionException.class, () -> bad.get().get());
    assertEquals("INVALID_FIELD", assertInstanceOf(RpcException.class, error.getCause()).reason());
    CompletableFuture<TaskHandle> good = stream.send("add", 1);
    at.accept(at.take());
    good.get();
    stream.close();
    assertThrows(IllegalStateException.class, () -> stream.send("add"));
  }

  @Test
  void aStreamThatStaysBrokenFailsAllThatHaveNoAnswer() throws Exception {
    List<Accepted> seen = new CopyOnWriteArrayList<>();
    gateway.onStream =
        out -> {
          Accepted stream = new Accepted(out);
          seen.add(stream);
          if (seen.size() == 1) stream.credit(10);
          if (seen.size() > 1) out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
          return stream;
        };
    TaskStream stream = client.withRetryBudget(Duration.ofMillis(500)).stream();
    CompletableFuture<TaskHandle> sent = stream.send("add", 1);
    seen.get(0).take();
    seen.get(0).out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
    ExecutionException error = assertThrows(ExecutionException.class, sent::get);
    assertEquals("DRAINING", assertInstanceOf(RpcException.class, error.getCause()).reason());
    assertTrue(seen.size() > 2);
    assertThrows(RpcException.class, () -> stream.send("add"));
    assertThrows(RpcException.class, stream::close);
  }

  @Test
  void anIdleStreamThatBreaksIsMadeAnewByTheNextTask() throws Exception {
    TaskStream stream = client.stream();
    CompletableFuture<CompletableFuture<TaskHandle>> first = send(stream);
    Accepted at = streams.take();
    at.credit(10);
    at.accept(at.take());
    first.get().get();
    at.out.onError(FakeGateway.error(Code.UNAVAILABLE, "DRAINING"));
    assertEquals(null, streams.poll(500, TimeUnit.MILLISECONDS));
    CompletableFuture<CompletableFuture<TaskHandle>> second = send(stream);
    Accepted next = streams.take();
    next.credit(10);
    next.accept(next.take());
    second.get().get();
    stream.close();
  }
}
