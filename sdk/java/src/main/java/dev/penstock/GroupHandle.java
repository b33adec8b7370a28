package dev.penstock;

import dev.penstock.v1.CancelGroupRequest;
import dev.penstock.v1.CancelGroupResponse;
import dev.penstock.v1.GatewayServiceGrpc;
import dev.penstock.v1.GetGroupStateRequest;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;

/**
 * A group that was sent. Every method may throw {@link RpcException}; NOT_FOUND GROUP_NOT_FOUND
 * means that the gateway never saw it, or that it has expired. Thread-safe.
 */
public final class GroupHandle {
  private static final int PAGE_SIZE = 1000;

  private final Calls calls;
  private final String id;
  private final List<TaskHandle> tasks;
  private final boolean replayed;

  GroupHandle(Calls calls, String id, List<TaskHandle> tasks, boolean replayed) {
    this.calls = calls;
    this.id = id;
    this.tasks = List.copyOf(tasks);
    this.replayed = replayed;
  }

  /** Its id. */
  public String id() {
    return id;
  }

  /** Its members, in order. Empty where this handle was made by {@link Client#group} of an id. */
  public List<TaskHandle> tasks() {
    return tasks;
  }

  /** Whether an equal group had been accepted before: it runs once. */
  public boolean replayed() {
    return replayed;
  }

  /** How it stands now. */
  public GroupState state() {
    return Calls.get(stateAsync());
  }

  /** As {@link #state}, without blocking. */
  public CompletableFuture<GroupState> stateAsync() {
    return Calls.then(
        calls.unary(GatewayServiceGrpc.getGetGroupStateMethod(), request(Duration.ZERO)),
        answer -> new GroupState(answer.getGroup()));
  }

  /**
   * Waits until all members are final, and a chord's callback too, at most so long. That some
   * failed is no error here.
   *
   * @throws ResultTimeoutException they did not end in time; they go on
   */
  public GroupState waitDone(Duration timeout) {
    return Calls.get(waitDoneAsync(timeout));
  }

  /** As {@link #waitDone}, without blocking. */
  public CompletableFuture<GroupState> waitDoneAsync(Duration timeout) {
    return awaitDone(Objects.requireNonNull(timeout, "timeout"));
  }

  /** The states of its members, in order; one that has expired is UNKNOWN. */
  public List<TaskState> members() {
    return Calls.get(membersAsync());
  }

  /** As {@link #members}, without blocking. */
  public CompletableFuture<List<TaskState>> membersAsync() {
    return members("", new ArrayList<>());
  }

  /**
   * Waits until all members are final, without a limit.
   *
   * @return what each returned, in order: see {@link TaskState#result}
   * @throws TaskFailedException one ended in FAILURE: the first such
   * @throws TaskCancelledException one was cancelled: the first such
   */
  public List<Object> results() {
    return Calls.get(resultsAsync());
  }

  /**
   * As {@link #results()}, at most so long.
   *
   * @throws ResultTimeoutException they did not end in time; they go on
   */
  public List<Object> results(Duration timeout) {
    return Calls.get(resultsAsync(timeout));
  }

  /** As {@link #results()}, without blocking. */
  public CompletableFuture<List<Object>> resultsAsync() {
    return resultsOf(awaitDone(null));
  }

  /** As {@link #results(Duration)}, without blocking. */
  public CompletableFuture<List<Object>> resultsAsync(Duration timeout) {
    return resultsOf(waitDoneAsync(timeout));
  }

  /**
   * Cancels every member, and the callback of a chord.
   *
   * @param reason for people; may be empty
   * @return how many tasks this call cancelled; the others were final already
   */
  public int cancel(String reason) {
    return Calls.get(cancelAsync(reason));
  }

  /** As {@link #cancel}, without blocking. */
  public CompletableFuture<Integer> cancelAsync(String reason) {
    return Calls.then(
        calls.unary(
            GatewayServiceGrpc.getCancelGroupMethod(),
            CancelGroupRequest.newBuilder().setGroupId(id).setReason(reason).build()),
        CancelGroupResponse::getCancelledCount);
  }

  @Override
  public String toString() {
    return "GroupHandle(" + id + ")";
  }

  private CompletableFuture<GroupState> awaitDone(Duration timeout) {
    return Calls.then(
        calls.await(
            GatewayServiceGrpc.getGetGroupStateMethod(),
            this::request,
            answer -> answer.getGroup().getDone(),
            System.nanoTime(),
            timeout,
            "group " + id),
        answer -> new GroupState(answer.getGroup()));
  }

  private CompletableFuture<List<TaskState>> members(String page, List<TaskState> read) {
    GetGroupStateRequest request =
        GetGroupStateRequest.newBuilder()
            .setGroupId(id)
            .setIncludeTasks(true)
            .setPageSize(PAGE_SIZE)
            .setPageToken(page)
            .build();
    return Calls.thenCall(
        calls.unary(GatewayServiceGrpc.getGetGroupStateMethod(), request),
        answer -> {
          answer.getGroup().getTasksList().forEach(state -> read.add(new TaskState(state)));
          return answer.getNextPageToken().isEmpty()
              ? CompletableFuture.completedFuture(Collections.unmodifiableList(read))
              : members(answer.getNextPageToken(), read);
        });
  }

  private CompletableFuture<List<Object>> resultsOf(CompletableFuture<GroupState> done) {
    return Calls.then(
        Calls.thenCall(done, state -> membersAsync()),
        members -> {
          List<Object> out = new ArrayList<>(members.size());
          for (TaskState member : members) out.add(resultOf(member));
          return Collections.unmodifiableList(out);
        });
  }

  private static Object resultOf(TaskState member) {
    if (member.status() == TaskStatus.UNKNOWN) {
      throw new RpcException(
          Status.Code.NOT_FOUND,
          "TASK_NOT_FOUND",
          "the state of member " + member.taskId() + " has expired",
          null);
    }
    return member.result();
  }

  private GetGroupStateRequest request(Duration wait) {
    return GetGroupStateRequest.newBuilder()
        .setGroupId(id)
        .setWait(Protos.duration(wait))
        .build();
  }
}
