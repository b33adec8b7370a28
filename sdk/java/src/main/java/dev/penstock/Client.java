package dev.penstock;

import dev.penstock.v1.GatewayServiceGrpc;
import dev.penstock.v1.SendChainRequest;
import dev.penstock.v1.SendChordRequest;
import dev.penstock.v1.SendGroupRequest;
import dev.penstock.v1.SendTaskRequest;
import dev.penstock.v1.SendTaskResponse;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * Sends tasks to a Penstock gateway.
 *
 * <pre>{@code
 * try (Client client = Client.connect("localhost:50051")) {
 *   long two = client.send("add", 1, 1).result(Long.class);
 * }
 * }</pre>
 *
 * <p>A call that meets UNAVAILABLE, a gateway that ends, one that is full, or a broker that is late
 * is repeated, after pauses of 50 ms to 2 s, until the retry budget is over. A repeat is safe: each
 * Send has a request_id, by which it is carried out once.
 *
 * <p>Methods whose name ends in Async return at once; what the others throw, their futures complete
 * with: {@link RpcException}, or IllegalArgumentException, which is thrown at once, for an argument
 * that has no counterpart. To cancel a future cancels the call.
 *
 * <p>Thread-safe. Make one and keep it: it holds the connections.
 */
public final class Client implements AutoCloseable {
  private final Calls calls;
  private final String requestId; // null: a new one for each call
  private final String groupId; // empty: the gateway makes one

  private Client(Calls calls, String requestId, String groupId) {
    this.calls = calls;
    this.requestId = requestId;
    this.groupId = groupId;
  }

  /** A client with the default options. See {@link #builder} for the addresses. */
  public static Client connect(String... addresses) {
    return builder(addresses).build();
  }

  /**
   * Begins the description of a client.
   *
   * @param addresses one or several of the form host:port; or one target as gRPC writes it, such as
   *     "dns:///penstock:50051". Calls go round over all their addresses, and leave out those that
   *     are away.
   */
  public static Builder builder(String... addresses) {
    return new Builder(List.of(addresses));
  }

  /** Options of a client. */
  public static final class Builder {
    private final List<String> addresses;
    private boolean tls;
    private Path caFile;
    private Path certificate;
    private Path key;
    private String serverName;
    private Duration deadline = Duration.ofSeconds(10);
    private Duration budget = Duration.ofSeconds(30);
    private final Metadata metadata = new Metadata();

    private Builder(List<String> addresses) {
      this.addresses = addresses;
    }

    /** Speaks TLS, with the authorities that Java trusts. Default: plain text. */
    public Builder tls() {
      tls = true;
      return this;
    }

    /** Speaks TLS, and trusts the authorities in this PEM file alone. */
    public Builder tls(Path caFile) {
      this.caFile = Objects.requireNonNull(caFile, "caFile");
      return tls();
    }

    /** Speaks TLS, and shows this certificate; both are PEM files, the key in PKCS #8. */
    public Builder clientCertificate(Path certificate, Path key) {
      this.certificate = Objects.requireNonNull(certificate, "certificate");
      this.key = Objects.requireNonNull(key, "key");
      return tls();
    }

    /** The name that the gateway's certificate must have. Default: the host of the address. */
    public Builder serverName(String name) {
      serverName = name;
      return this;
    }

    /** How long one try of a call may take. Default 10 s; one that waits, so much longer. */
    public Builder deadline(Duration deadline) {
      this.deadline = Objects.requireNonNull(deadline, "deadline");
      return this;
    }

    /** How long after its beginning a call may be repeated. Default 30 s; 0: never. */
    public Builder retryBudget(Duration budget) {
      this.budget = Objects.requireNonNull(budget, "budget");
      return this;
    }

    /** Metadata for every call. */
    public Builder metadata(String key, String value) {
      metadata.put(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER), value);
      return this;
    }

    /**
     * The client. It connects with its first call.
     *
     * @throws IllegalArgumentException an address is wrong
     * @throws UncheckedIOException a file of TLS cannot be read
     */
    public Client build() {
      ManagedChannelBuilder<?> channel =
          Grpc.newChannelBuilder(AddressList.target(addresses), credentials())
              .defaultLoadBalancingPolicy("round_robin")
              // Answers have the results of tasks in them, which have no limit here.
              .maxInboundMessageSize(Integer.MAX_VALUE)
              // So that a watch finds out that the gateway's machine is gone.
              .keepAliveTime(30, TimeUnit.SECONDS)
              .keepAliveTimeout(10, TimeUnit.SECONDS)
              .userAgent("penstock-java/0.1.0");
      if (serverName != null) channel.overrideAuthority(serverName);
      Metadata own = new Metadata();
      own.merge(metadata);
      return new Client(
          new Calls(new Calls.Link(channel.build()), deadline, budget, own), null, "");
    }

    private ChannelCredentials credentials() {
      if (!tls) return InsecureChannelCredentials.create();
      try {
        TlsChannelCredentials.Builder out = TlsChannelCredentials.newBuilder();
        if (caFile != null) out.trustManager(caFile.toFile());
        if (certificate != null) out.keyManager(certificate.toFile(), key.toFile());
        return out.build();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }

  /** This client with another deadline for one try of a call. It shares the connections. */
  public Client withDeadline(Duration deadline) {
    Objects.requireNonNull(deadline, "deadline");
    return with(new Calls(calls.link, deadline, calls.budget, calls.metadata));
  }

  /** This client with another retry budget; 0: nothing is repeated. */
  public Client withRetryBudget(Duration budget) {
    Objects.requireNonNull(budget, "budget");
    return with(new Calls(calls.link, calls.deadline, budget, calls.metadata));
  }

  /** This client with this metadata for its calls, in place of any of the same key. */
  public Client withMetadata(String key, String value) {
    Metadata.Key<String> name = Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER);
    Metadata more = new Metadata();
    more.merge(calls.metadata);
    more.discardAll(name);
    more.put(name, value);
    return with(new Calls(calls.link, calls.deadline, calls.budget, more));
  }

  /**
   * This client with a request_id of your own, for one Send that you may repeat later: an equal
   * call of this id is carried out once in 24 hours, and another one is refused.
   */
  public Client withRequestId(String id) {
    return new Client(calls, Objects.requireNonNull(id, "id"), groupId);
  }

  /** This client with the id of the group or chord that is sent next. */
  public Client withGroupId(String id) {
    return new Client(calls, requestId, Objects.requireNonNull(id, "id"));
  }

  /** Ends the connections, of this client and all that share them; calls under way fail. */
  @Override
  public void close() {
    calls.link.closed = true;
    calls.link.channel.shutdownNow();
    try {
      calls.link.channel.awaitTermination(5, TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** Sends one task; returns when the gateway accepted it. */
  public TaskHandle send(Task task) {
    return Calls.get(sendAsync(task));
  }

  /** As {@link #send(Task)}, of {@code Task.of(name, args)}. */
  public TaskHandle send(String name, Object... args) {
    return send(Task.of(name, args));
  }

  /** As {@link #send(Task)}, without blocking. */
  public CompletableFuture<TaskHandle> sendAsync(Task task) {
    return Calls.then(
        calls.unary(GatewayServiceGrpc.getSendTaskMethod(), sendRequest(task).build()),
        this::handle);
  }

  private SendTaskRequest.Builder sendRequest(Task task) {
    return SendTaskRequest.newBuilder().setTask(task.proto()).setRequestId(callId());
  }

  private TaskHandle handle(SendTaskResponse answer) {
    return new TaskHandle(calls, answer.getTaskId(), answer.getReplayed());
  }

  /**
   * Sends one task and waits for its result, at most so long: {@link #send(Task)} and then {@link
   * TaskHandle#result(Duration)}, in one call where the end comes within 30 s.
   *
   * @return see {@link TaskState#result}
   * @throws TaskFailedException it ended in FAILURE
   * @throws TaskCancelledException it was cancelled
   * @throws ResultTimeoutException it did not end in time; it goes on
   */
  public Object run(Task task, Duration timeout) {
    return Calls.get(runAsync(task, timeout));
  }

  /** As {@link #run}, without blocking. To cancel the future ends the wait, not the task. */
  public CompletableFuture<Object> runAsync(Task task, Duration timeout) {
    long began = System.nanoTime();
    long end = began + Calls.nanos(timeout);
    Supplier<Duration> left = () -> Duration.ofNanos(Math.max(0, end - System.nanoTime()));
    Duration wait =
        timeout.isNegative() ? Duration.ZERO : Calls.shorter(timeout, Calls.LONGEST_WAIT);
    SendTaskRequest.Builder request = sendRequest(task);
    CompletableFuture<SendTaskResponse> sent =
        Calls.orElse(
            calls.unary(
                GatewayServiceGrpc.getSendTaskMethod(),
                request.setWait(Protos.duration(wait)).build(),
                wait.plus(calls.deadline),
                Duration.ZERO),
            error -> RetryRule.mayRepeat(error) && !calls.budget.isZero(),
            // A repeat would wait as long again.
            () ->
                calls.unary(
                    GatewayServiceGrpc.getSendTaskMethod(),
                    request.clearWait().build(),
                    calls.deadline,
                    Calls.shorter(left.get(), calls.budget)));
    CompletableFuture<TaskState> done =
        Calls.thenCall(
            sent,
            answer -> {
              TaskState state = new TaskState(answer.getState());
              return state.status().isFinal()
                  ? CompletableFuture.completedFuture(state)
                  : handle(answer).awaitFinal(began, timeout);
            });
    return Calls.then(done, TaskState::result);
  }

  /** As {@link #send(String, Object...)}, without blocking. */
  public CompletableFuture<TaskHandle> sendAsync(String name, Object... args) {
    return sendAsync(Task.of(name, args));
  }

  /** Sends 1 to 10,000 tasks that run in parallel. */
  public GroupHandle sendGroup(List<Task> tasks) {
    return Calls.get(sendGroupAsync(tasks));
  }

  /** As {@link #sendGroup}, without blocking. */
  public CompletableFuture<GroupHandle> sendGroupAsync(List<Task> tasks) {
    SendGroupRequest request =
        SendGroupRequest.newBuilder()
            .addAllTasks(Task.protos(tasks))
            .setRequestId(callId())
            .setGroupId(groupId)
            .build();
    return Calls.then(
        calls.unary(GatewayServiceGrpc.getSendGroupMethod(), request),
        answer -> {
          boolean replayed = answer.getReplayed();
          List<TaskHandle> members = handles(answer.getTaskIdsList(), replayed);
          return new GroupHandle(calls, answer.getGroupId(), members, replayed);
        });
  }

  /**
   * Sends 1 to 1,000 tasks that run one after the other; each gets the results of the one before it
   * after its own arguments.
   */
  public ChainHandle sendChain(List<Task> tasks) {
    return Calls.get(sendChainAsync(tasks));
  }

  /** As {@link #sendChain}, without blocking. */
  public CompletableFuture<ChainHandle> sendChainAsync(List<Task> tasks) {
    SendChainRequest request =
        SendChainRequest.newBuilder()
            .addAllTasks(Task.protos(tasks))
            .setRequestId(callId())
            .build();
    return Calls.then(
        calls.unary(GatewayServiceGrpc.getSendChainMethod(), request),
        answer -> {
          List<TaskHandle> links = handles(answer.getTaskIdsList(), answer.getReplayed());
          return new ChainHandle(calls, links, answer.getReplayed());
        });
  }

  /** Sends a group and, when all its members have succeeded, a callback with all their results. */
  public ChordHandle sendChord(List<Task> tasks, Task callback) {
    return Calls.get(sendChordAsync(tasks, callback));
  }

  /**
   * As {@link #sendChord(List, Task)}; when a member failed, {@code onFailure} is sent with the
   * text of why. To follow it give it an id: {@code client.task(id)}.
   */
  public ChordHandle sendChord(List<Task> tasks, Task callback, Task onFailure) {
    return Calls.get(sendChordAsync(tasks, callback, onFailure));
  }

  /** As {@link #sendChord(List, Task)}, without blocking. */
  public CompletableFuture<ChordHandle> sendChordAsync(List<Task> tasks, Task callback) {
    return sendChordAsync(tasks, callback, null);
  }

  /** As {@link #sendChord(List, Task, Task)}, without blocking. */
  public CompletableFuture<ChordHandle> sendChordAsync(
      List<Task> tasks, Task callback, Task onFailure) {
    SendChordRequest.Builder request =
        SendChordRequest.newBuilder()
            .addAllTasks(Task.protos(tasks))
            .setCallback(callback.proto())
            .setRequestId(callId())
            .setGroupId(groupId);
    if (onFailure != null) request.setOnFailure(onFailure.proto());
    return Calls.then(
        calls.unary(GatewayServiceGrpc.getSendChordMethod(), request.build()),
        answer -> {
          boolean replayed = answer.getReplayed();
          List<TaskHandle> members = handles(answer.getTaskIdsList(), replayed);
          GroupHandle group = new GroupHandle(calls, answer.getGroupId(), members, replayed);
          return new ChordHandle(calls, group, answer.getCallbackTaskId());
        });
  }

  /**
   * Sends tasks that have nothing to do with each other, 1,000 in a call. What is wrong with one of
   * them is told of that one.
   *
   * @return one for each task, in order
   * @throws RpcException the first call failed as a whole; when a later one does, its tasks and
   *     those after them are told to be refused so
   */
  public List<SendResult> sendMany(List<Task> tasks) {
    return Calls.get(sendManyAsync(tasks));
  }

  /** As {@link #sendMany}, without blocking. */
  public CompletableFuture<List<SendResult>> sendManyAsync(List<Task> tasks) {
    return BatchSend.start(calls, List.copyOf(tasks), callId());
  }

  /** Opens a stream of tasks. Close it. */
  public TaskStream stream() {
    return new TaskStream(calls);
  }

  /** The task of this id, which was sent earlier or elsewhere. Calls nobody. */
  public TaskHandle task(String id) {
    return new TaskHandle(calls, Objects.requireNonNull(id, "id"), false);
  }

  /** The group, or the chord's group, of this id, sent earlier or elsewhere. Calls nobody. */
  public GroupHandle group(String id) {
    return new GroupHandle(calls, Objects.requireNonNull(id, "id"), List.of(), false);
  }

  private Client with(Calls calls) {
    return new Client(calls, requestId, groupId);
  }

  private String callId() {
    return requestId != null ? requestId : UUID.randomUUID().toString();
  }

  private List<TaskHandle> handles(List<String> ids, boolean replayed) {
    List<TaskHandle> out = new ArrayList<>(ids.size());
    for (String id : ids) out.add(new TaskHandle(calls, id, replayed));
    return out;
  }
}
