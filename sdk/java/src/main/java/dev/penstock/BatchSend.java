package dev.penstock;

import dev.penstock.v1.BatchSendTasksRequest;
import dev.penstock.v1.BatchSendTasksResponse;
import dev.penstock.v1.GatewayServiceGrpc;
import dev.penstock.v1.SendTaskResult;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;

/**
 * Sends many tasks by one BatchSendTasks after the other. A call is repeated while some of its
 * tasks were left out for a reason that may pass; the gateway then sends those alone.
 */
final class BatchSend {
  private static final int MOST_TASKS = 1000;
  // Half of what a call may have: a task may be larger as the gateway counts it.
  private static final int MOST_BYTES = 32 << 20;

  private final Calls calls;
  private final List<BatchSendTasksRequest> requests;
  private final List<SendResult> results = new ArrayList<>();
  private final CompletableFuture<List<SendResult>> future = new CompletableFuture<>();
  private volatile CompletableFuture<BatchSendTasksResponse> call;

  // Of the request under way.
  private int at;
  private SendResult[] part;
  private int tries;
  private long began;

  private BatchSend(Calls calls, List<BatchSendTasksRequest> requests) {
    this.calls = calls;
    this.requests = requests;
    future.whenComplete(
        (value, error) -> {
          CompletableFuture<?> current = call;
          if (future.isCancelled() && current != null) current.cancel(false);
        });
  }

  static CompletableFuture<List<SendResult>> start(
      Calls calls, List<Task> tasks, String requestId) {
    BatchSend send = new BatchSend(calls, split(tasks, requestId));
    send.begin();
    return send.future;
  }

  /** The calls; each has a request_id that follows from the one given. */
  static List<BatchSendTasksRequest> split(List<Task> tasks, String requestId) {
    List<BatchSendTasksRequest> out = new ArrayList<>();
    BatchSendTasksRequest.Builder next = BatchSendTasksRequest.newBuilder();
    int bytes = 0;
    for (Task task : tasks) {
      int size = task.proto().getSerializedSize();
      int count = next.getTasksCount();
      if (count == MOST_TASKS || count > 0 && bytes + size > MOST_BYTES) {
        out.add(next.setRequestId(name(requestId, out.size())).build());
        next = BatchSendTasksRequest.newBuilder();
        bytes = 0;
      }
      next.addTasks(task.proto());
      bytes += size;
    }
    if (next.getTasksCount() > 0) out.add(next.setRequestId(name(requestId, out.size())).build());
    return out;
  }

  private static String name(String requestId, int part) {
    return part == 0 ? requestId : requestId + "." + part;
  }

  private void begin() {
    if (at == requests.size()) {
      future.complete(Collections.unmodifiableList(results));
      return;
    }
    part = new SendResult[requests.get(at).getTasksCount()];
    tries = 0;
    began = System.nanoTime();
    step();
  }

  private void step() {
    if (future.isDone()) return;
    ++tries;
    CompletableFuture<BatchSendTasksResponse> next =
        calls.unary(GatewayServiceGrpc.getBatchSendTasksMethod(), requests.get(at));
    call = next;
    next.whenComplete(
        (answer, error) -> {
          if (error == null) take(answer);
          else fail(RpcException.of(error));
        });
    if (future.isCancelled()) next.cancel(false);
  }

  private void take(BatchSendTasksResponse answer) {
    Optional<Duration> pause = Optional.empty();
    for (int i = 0; i < part.length; ++i) {
      // What was accepted by an earlier try would now be called replayed.
      if (part[i] != null && part[i].isAccepted()) continue;
      SendTaskResult result = answer.getResults(i);
      if (!result.hasStatus()) {
        part[i] =
            new SendResult(new TaskHandle(calls, result.getTaskId(), result.getReplayed()), null);
        continue;
      }
      RpcException error = RpcException.of(result.getStatus(), null);
      part[i] = new SendResult(null, error);
      Optional<Duration> wish = calls.pause(error, tries, began, calls.budget);
      if (wish.isPresent() && (pause.isEmpty() || wish.get().compareTo(pause.get()) > 0)) {
        pause = wish;
      }
    }
    if (pause.isPresent()) {
      Calls.after(pause.get(), this::step);
    } else {
      next();
    }
  }

  /** The call failed as a whole, and so would those that follow it. */
  private void fail(RpcException error) {
    boolean nothingSent = at == 0 && part[0] == null;
    if (nothingSent) {
      future.completeExceptionally(error);
      return;
    }
    for (int i = 0; i < part.length; ++i) {
      if (part[i] == null || !part[i].isAccepted()) part[i] = new SendResult(null, error);
    }
    results.addAll(Arrays.asList(part));
    for (BatchSendTasksRequest rest : requests.subList(at + 1, requests.size())) {
      results.addAll(Collections.nCopies(rest.getTasksCount(), new SendResult(null, error)));
    }
    future.complete(Collections.unmodifiableList(results));
  }

  private void next() {
    results.addAll(Arrays.asList(part));
    ++at;
    begin();
  }
}
