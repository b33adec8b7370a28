package dev.penstock;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.penstock.v1.StreamTasksRequest;
import dev.penstock.v1.StreamTasksResponse;
import io.grpc.Status.Code;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class TaskStreamTest {
  /** One stream at the gateway, whose answers the test gives. */
  private static final class Accepted implements StreamObserver<StreamTasksRequest> {
    final StreamObserver<StreamTasksResponse> out;
    final LinkedBlockingQueue<StreamTasksRequest> tasks = new LinkedBlockingQueue<>();

    Accepted(StreamObserver<StreamTasksResponse> out) {
      this.out = out;
    }

    void credit(int credit) {
      out.onNext(StreamTasksResponse.newBuilder().setCredit(credit).build());
    }

    void accept(StreamTasksRequest task) {
      out.onNext(
          StreamTasksResponse.newBuilder()
              .setSequence(task.getSequence())
              .setTaskId(task.getTask().getId())
              .setCredit(1)
              .build());
    }

    void refuse(StreamTasksRequest task, Code code, String reason) {
      out.onNext(
          StreamTasksResponse.newBuilder()
              .setSequence(task.getSequence())
              .setStatus(FakeGateway.status(code, reason))
              .setCredit(1)
              .build());
    }

    StreamTasksRequest take() throws InterruptedException {
      return tasks.take();
    }

    @Override
    public void onNext(StreamTasksRequest task) {
      tasks.add(task);
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
