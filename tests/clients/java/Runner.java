// Carries out the table of cases, or the sends of a rolling restart, by the public
// API of the Java client: see tests/clients/README.md.

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import dev.penstock.ChordHandle;
import dev.penstock.Client;
import dev.penstock.GroupHandle;
import dev.penstock.ResultTimeoutException;
import dev.penstock.RpcException;
import dev.penstock.SendResult;
import dev.penstock.Task;
import dev.penstock.TaskCancelledException;
import dev.penstock.TaskError;
import dev.penstock.TaskFailedException;
import dev.penstock.TaskHandle;
import dev.penstock.TaskState;
import dev.penstock.TaskStatus;
import dev.penstock.TaskStream;
import dev.penstock.Typed;
import dev.penstock.Watch;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;

public final class Runner {
  /** The types whose values are given as Java has them, unless they are empty lists. */
  private static final Set<String> NATIVE =
      Set.of(
          "bool", "int64", "float64", "string", "[]byte", "[]bool", "[]int64", "[]float64",
          "[]string");

  private static final int ROLL_THREADS = 8;
  private static final Duration ROLL_WAIT = Duration.ofMinutes(2);

  private final Client client;
  private final String run = UUID.randomUUID().toString();

  private Runner(Client client) {
    this.client = client;
  }

  public static void main(String[] args) throws Exception {
    if (args.length == 4 && args[0].equals("cases")) {
      try (Client client = Client.connect(args[1].split(","))) {
        JsonObject outcomes = new JsonObject();
        String table = Files.readString(Path.of(args[2]));
        JsonArray cases = JsonParser.parseString(table).getAsJsonArray();
        for (JsonElement element : cases) {
          JsonObject item = element.getAsJsonObject();
          Runner runner = new Runner(client);
          outcomes.add(item.get("name").getAsString(), outcomeOf(() -> runner.carryOut(item)));
        }
        Files.writeString(Path.of(args[3]), new Gson().toJson(outcomes));
      }
    } else if (args.length == 5 && args[0].equals("roll")) {
      try (Client client = Client.connect(args[1].split(","))) {
        JsonObject out = new Runner(client).roll(Integer.parseInt(args[2]), args[3]);
        Files.writeString(Path.of(args[4]), new Gson().toJson(out));
      }
    } else {
      System.err.println("runner cases ADDRESSES CASES OUT | roll ADDRESSES COUNT PREFIX OUT");
      System.exit(2);
    }
  }

  // ---- A case -----------------------------------------------------------------

  private JsonObject carryOut(JsonObject item) {
    String what = item.get("do").getAsString();
    switch (what) {
      case "send":
        return outcome(client.send(task(item.get("task"))), timeout(item));
      case "metadata":
        {
          Client with = client;
          for (Map.Entry<String, JsonElement> entry :
              item.getAsJsonObject("metadata").entrySet()) {
            with = with.withMetadata(entry.getKey(), entry.getValue().getAsString());
          }
          return outcome(with.send(task(item.get("task"))), timeout(item));
        }
      case "group":
        {
          GroupHandle group = client.sendGroup(tasks(item));
          group.waitDone(timeout(item));
          List<JsonObject> members = new ArrayList<>();
          for (TaskState state : group.members()) members.add(outcomeOf(() -> outcome(state)));
          return members(members);
        }
      case "chain":
        return outcome(client.sendChain(tasks(item)), timeout(item));
      case "chord":
        return outcome(client.sendChord(tasks(item), task(item.get("callback"))), timeout(item));
      case "chord_on_failure":
        {
          Task onFailure = task(item.get("on_failure"));
          ChordHandle chord = client.sendChord(tasks(item), task(item.get("callback")), onFailure);
          JsonObject out = new JsonObject();
          out.add("callback", outcomeOf(() -> outcome(chord, timeout(item))));
          out.add(
              "on_failure", outcomeOf(() -> outcome(client.task(onFailure.id()), timeout(item))));
          return out;
        }
      case "many":
        {
          List<JsonObject> members = new ArrayList<>();
          for (SendResult sent : client.sendMany(tasks(item))) {
            members.add(outcomeOf(() -> outcome(sent.handle(), timeout(item))));
          }
          return members(members);
        }
      case "stream":
        {
          List<CompletableFuture<TaskHandle>> sent = new ArrayList<>();
          try (TaskStream stream = client.stream()) {
            for (Task task : tasks(item)) sent.add(stream.send(task));
          }
          List<JsonObject> members = new ArrayList<>();
          for (CompletableFuture<TaskHandle> handle : sent) {
            members.add(outcomeOf(() -> outcome(handle.join(), timeout(item))));
          }
          return members(members);
        }
      case "state":
        {
          TaskHandle handle = client.task(item.get("task_id").getAsString());
          return one("status", handle.state().status().name());
        }
      case "group_state":
        {
          JsonObject out = new JsonObject();
          out.addProperty(
              "total", client.group(item.get("group_id").getAsString()).state().total());
          return out;
        }
      case "watch":
        return one("last", watch(client.send(task(item.get("task"))), null).name());
      case "cancel":
        return cancel(client.send(task(item.get("task"))), item);
      case "cancel_running":
        {
          TaskHandle handle = client.send(task(item.get("task")));
          watch(handle, TaskStatus.STARTED);
          return cancel(handle, item);
        }
      case "wait_over":
        {
          TaskHandle handle = client.send(task(item.get("task")));
          JsonObject out = outcomeOf(() -> outcome(handle, timeout(item)));
          handle.cancel("the case is over");
          return out;
        }
      case "repeat":
        {
          Client same = client.withRequestId(run);
          Task task = task(item.get("task"));
          TaskHandle first = same.send(task);
          TaskHandle second = same.send(task);
          JsonObject out = new JsonObject();
          out.addProperty("same_id", first.id().equals(second.id()));
          JsonArray replayed = new JsonArray();
          replayed.add(first.replayed());
          replayed.add(second.replayed());
          out.add("replayed", replayed);
          out.add("outcome", outcomeOf(() -> outcome(second, timeout(item))));
          return out;
        }
      case "reuse":
        {
          Client same = client.withRequestId(run);
          same.send(task(item.get("task")));
          return outcome(same.send(task(item.get("other"))), timeout(item));
        }
      case "unique":
        {
          Task task = task(item.get("task"));
          TaskHandle first = client.send(task);
          JsonObject out = outcomeOf(() -> outcome(client.send(task), timeout(item)));
          first.cancel("the case is over");
          return out;
        }
      case "silent":
        try (Client silent =
            Client.builder(System.getenv("CLIENTS_SILENT"))
                .deadline(Duration.ofMillis(500))
                .retryBudget(Duration.ZERO)
                .build()) {
          return outcome(silent.send(task(item.get("task"))), timeout(item));
        }
      default:
        throw new IllegalStateException("no case does \"" + what + "\"");
    }
  }

  /** Follows a task to its end, or to this status; where it stood last. */
  private static TaskStatus watch(TaskHandle handle, TaskStatus until) {
    TaskStatus last = null;
    try (Watch watch = handle.watch()) {
      for (TaskState state : watch) {
        last = state.status();
        if (last == until) break;
      }
    }
    return last;
  }

  private static JsonObject cancel(TaskHandle handle, JsonObject item) {
    JsonObject out = new JsonObject();
    out.addProperty("accepted", handle.cancel(item.get("reason").getAsString()));
    out.add("outcome", outcomeOf(() -> outcome(handle, timeout(item))));
    return out;
  }

  private static Duration timeout(JsonObject item) {
    return Duration.ofMillis(item.has("timeout_ms") ? item.get("timeout_ms").getAsLong() : 20_000);
  }

  // ---- Tasks and values -------------------------------------------------------

  private List<Task> tasks(JsonObject item) {
    return tasks(item.getAsJsonArray("tasks"));
  }

  private List<Task> tasks(JsonArray in) {
    List<Task> out = new ArrayList<>();
    for (JsonElement task : in) out.add(task(task));
    return out;
  }

  private Task task(JsonElement element) {
    JsonObject in = element.getAsJsonObject();
    Task.Builder out = Task.builder(in.get("name").getAsString());
    for (Map.Entry<String, JsonElement> entry : in.entrySet()) {
      JsonElement value = entry.getValue();
      switch (entry.getKey()) {
        case "name":
          break;
        case "args":
          for (JsonElement arg : value.getAsJsonArray()) {
            Map.Entry<String, JsonElement> typed =
                arg.getAsJsonObject().entrySet().iterator().next();
            out.args(argument(typed.getKey(), typed.getValue()));
          }
          break;
        case "id":
          out.id(own(value.getAsString()));
          break;
        case "unique_key":
          out.uniqueKey(own(value.getAsString()));
          break;
        case "delay_ms":
          out.delay(Duration.ofMillis(value.getAsLong()));
          break;
        case "timeout_ms":
          out.timeout(Duration.ofMillis(value.getAsLong()));
          break;
        case "expire_after_ms":
          out.expireAfter(Duration.ofMillis(value.getAsLong()));
          break;
        case "retry_count":
          out.retryCount(value.getAsInt());
          break;
        case "priority":
          out.priority(value.getAsInt());
          break;
        case "immutable":
          out.immutable(value.getAsBoolean());
          break;
        case "routing_key":
          out.routingKey(value.getAsString());
          break;
        case "headers":
          {
            Map<String, String> headers = new HashMap<>();
            value.getAsJsonObject().entrySet().forEach(
                header -> headers.put(header.getKey(), header.getValue().getAsString()));
            out.headers(headers);
            break;
          }
        case "on_success":
          out.onSuccess(tasks(value.getAsJsonArray()).toArray(new Task[0]));
          break;
        case "on_error":
          out.onError(tasks(value.getAsJsonArray()).toArray(new Task[0]));
          break;
        default:
          throw new IllegalStateException("no task has \"" + entry.getKey() + "\"");
      }
    }
    return out.build();
  }

  private String own(String id) {
    return id.startsWith("@") ? "java." + id.substring(1) + "." + run : id;
  }

  private static Object argument(String type, JsonElement in) {
    Object value = value(type, in);
    boolean empty = value instanceof List && ((List<?>) value).isEmpty();
    return NATIVE.contains(type) && !empty ? value : Typed.of(type, value);
  }

  private static Object value(String type, JsonElement in) {
    if (type.equals("[]byte")) return bytes(in.getAsString());
    if (type.startsWith("[]")) {
      List<Object> out = new ArrayList<>();
      for (JsonElement x : in.getAsJsonArray()) out.add(value(type.substring(2), x));
      return out;
    }
    if (type.equals("bool")) return in.getAsBoolean();
    if (type.startsWith("float")) {
      return Double.longBitsToDouble(Long.parseUnsignedLong(in.getAsString(), 16));
    }
    if (type.equals("int64")) {
      BigInteger number = new BigInteger(in.getAsString());
      return number.bitLength() < 64 ? (Object) number.longValue() : number;
    }
    if (type.contains("int")) return new BigInteger(in.getAsString());
    return in.getAsString();
  }

  private static byte[] bytes(String hex) {
    byte[] out = new byte[hex.length() / 2];
    for (int i = 0; i < out.length; ++i) {
      out[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
    }
    return out;
  }

  // ---- Outcomes ---------------------------------------------------------------

  private static JsonObject outcome(TaskHandle handle, Duration timeout) {
    return outcome(handle.waitDone(timeout));
  }

  private static JsonObject outcome(TaskState state) {
    JsonArray results = new JsonArray();
    for (Object result : state.results()) results.add(result(result));
    JsonObject out = new JsonObject();
    out.add("results", results);
    return out;
  }

  private static JsonObject result(Object value) {
    if (value instanceof Boolean) {
      JsonObject out = new JsonObject();
      out.addProperty("bool", (Boolean) value);
      return out;
    }
    if (value instanceof Long || value instanceof BigInteger) return one("int", value.toString());
    if (value instanceof Double) {
      return one("float", String.format("%016x", Double.doubleToRawLongBits((Double) value)));
    }
    if (value instanceof String) return one("string", (String) value);
    if (value instanceof byte[]) {
      StringBuilder hex = new StringBuilder();
      for (byte b : (byte[]) value) hex.append(String.format("%02x", b));
      return one("bytes", hex.toString());
    }
    JsonArray list = new JsonArray();
    for (Object x : (List<?>) value) list.add(result(x));
    JsonObject out = new JsonObject();
    out.add("list", list);
    return out;
  }

  /** What came of it, or what it threw. */
  private static JsonObject outcomeOf(Supplier<JsonObject> action) {
    try {
      return action.get();
    } catch (CompletionException e) {
      return thrown((RuntimeException) e.getCause());
    } catch (RuntimeException e) {
      return thrown(e);
    }
  }

  private static JsonObject thrown(RuntimeException error) {
    JsonObject out = new JsonObject();
    if (error instanceof TaskFailedException) {
      out.add("task_error", taskError("FAILURE", ((TaskFailedException) error).error()));
    } else if (error instanceof TaskCancelledException) {
      out.add("task_error", taskError("CANCELLED", ((TaskCancelledException) error).error()));
    } else if (error instanceof ResultTimeoutException) {
      out.addProperty("timeout", true);
    } else if (error instanceof IllegalArgumentException) {
      out.addProperty("client_error", true);
    } else if (error instanceof RpcException) {
      RpcException failed = (RpcException) error;
      JsonObject told = one("code", failed.code().name());
      if (!failed.reason().isEmpty()) told.addProperty("reason", failed.reason());
      JsonArray fields = new JsonArray();
      failed.fieldViolations().forEach(violation -> fields.add(violation.field()));
      if (!fields.isEmpty()) told.add("fields", fields);
      out.add("error", told);
    } else {
      throw error;
    }
    return out;
  }

  private static JsonObject taskError(String status, TaskError error) {
    JsonObject out = one("status", status);
    out.addProperty("message", error.message());
    out.addProperty("type", error.type());
    return out;
  }

  private static JsonObject members(List<JsonObject> members) {
    JsonArray list = new JsonArray();
    members.forEach(list::add);
    JsonObject out = new JsonObject();
    out.add("members", list);
    return out;
  }

  private static JsonObject one(String key, String value) {
    JsonObject out = new JsonObject();
    out.addProperty(key, value);
    return out;
  }

  // ---- A rolling restart ------------------------------------------------------

  /** Sends tasks, and waits for them, on a few threads. */
  private JsonObject roll(int count, String prefix) throws Exception {
    String[] ids = new String[count];
    JsonObject[] outcomes = new JsonObject[count];
    AtomicInteger accepted = new AtomicInteger();
    onThreads(
        count,
        i ->
            outcomes[i] =
                outcomeOf(
                    () -> {
                      ids[i] = client.send("record", prefix + "." + i).id();
                      int sent = accepted.incrementAndGet();
                      if (sent % 100 == 0) System.out.println("sent " + sent);
                      return null;
                    }));
    onThreads(
        count,
        i -> {
          if (ids[i] == null) return;
          outcomes[i] = outcomeOf(() -> outcome(client.task(ids[i]), ROLL_WAIT));
        });
    JsonObject out = new JsonObject();
    out.add("sent", new Gson().toJsonTree(ids));
    JsonArray list = new JsonArray();
    Arrays.asList(outcomes).forEach(list::add);
    out.add("outcomes", list);
    return out;
  }

  private interface Step {
    void run(int i);
  }

  private static void onThreads(int count, Step step) throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(ROLL_THREADS);
    List<Future<?>> steps = new ArrayList<>();
    for (int i = 0; i < count; ++i) {
      int index = i;
      steps.add(threads.submit(() -> step.run(index)));
    }
    for (Future<?> future : steps) future.get();
    threads.shutdown();
  }
}
