package dev.penstock;

import java.util.List;

/** A chain that was sent. As a task it is its last link, which has the result. */
public final class ChainHandle extends TaskHandle {
  private final List<TaskHandle> links;

  ChainHandle(Calls calls, List<TaskHandle> links, boolean replayed) {
    super(calls, links.get(links.size() - 1).id(), replayed);
    this.links = List.copyOf(links);
  }

  /** All links, in order. */
  public List<TaskHandle> links() {
    return links;
  }
}
