package dev.penstock;

import dev.penstock.v1.StatusCount;
import java.util.Collections;
import java.util.EnumMap;
import java.util.Map;
import java.util.Optional;

/** How a group stood when it was asked for. */
public final class GroupState {
  private final dev.penstock.v1.GroupState proto;

  GroupState(dev.penstock.v1.GroupState proto) {
    this.proto = proto;
  }

  /** The id of the group. */
  public String groupId() {
    return proto.getGroupId();
  }

  /** How many members it has. */
  public int total() {
    return proto.getTotal();
  }

  /** How many members stand at each status that any stands at; UNKNOWN: their state expired. */
  public Map<TaskStatus, Integer> counts() {
    Map<TaskStatus, Integer> out = new EnumMap<>(TaskStatus.class);
    for (StatusCount count : proto.getCountsList()) {
      out.merge(TaskStatus.of(count.getStatus()), count.getCount(), Integer::sum);
    }
    return Collections.unmodifiableMap(out);
  }

  /** Whether all members are final and, in a chord, the callback too. */
  public boolean isDone() {
    return proto.getDone();
  }

  /** Whether the chord's callback was set off. False for a plain group. */
  public boolean isChordTriggered() {
    return proto.getChordTriggered();
  }

  /** The state of the chord's callback; empty for a plain group. */
  public Optional<TaskState> callback() {
    return proto.hasCallback()
        ? Optional.of(new TaskState(proto.getCallback()))
        : Optional.empty();
  }

  @Override
  public String toString() {
    return "GroupState(" + groupId() + ", " + counts() + ", done " + isDone() + ")";
  }
}
