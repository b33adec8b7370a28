package dev.penstock;

/** A chord that was sent. As a task it is its callback, which has the result. */
public final class ChordHandle extends TaskHandle {
  private final GroupHandle group;

  ChordHandle(Calls calls, GroupHandle group, String callbackId) {
    super(calls, callbackId, group.replayed());
    this.group = group;
  }

  /** Its members. */
  public GroupHandle group() {
    return group;
  }
}
