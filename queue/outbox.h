// Bytes on their way into a socket that one thread, the owner, reads and any thread
// adds to. Who adds them writes them, if the owner sleeps: to wake it would cost
// more than the write. While it is awake they gather, and it writes them all
// before it sleeps.

#ifndef PENSTOCK_QUEUE_OUTBOX_H_
#define PENSTOCK_QUEUE_OUTBOX_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "queue/waker.h"

namespace penstock {

class Outbox : public Wakeable, public std::enable_shared_from_this<Outbox> {
 public:
  // `owner` sleeps in a poll() on it and on the socket: signalled when only that
  // helps. Not owned; not used after Close.
  explicit Outbox(Waker* owner) : owner_(owner) {}

  // --- by any thread

  // Without a socket they are dropped. May be called with a lock held.
  void Add(std::string_view bytes);

  // Writes what was added, at once or at the end of a WakeLater, unless another
  // one does. Due after each Add, but from the owner.
  void Push();

  // The end of a WakeLater.
  void Wake() override;

  // --- by the owner, which is awake from Open on

  // A connected socket that does not block.
  void Open(int fd);

  // Drops what is not written. The socket is used no more.
  void Close();

  // Writes what there is. True: all of it went, and the owner may sleep. False:
  // the socket is full, so poll() must wait for room as well.
  bool WriteAndSleep();

  // poll() has returned.
  void Awake();

 private:
  bool TakeChunk() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Write();

  Waker* const owner_;

  absl::Mutex mu_;
  int fd_ ABSL_GUARDED_BY(mu_) = -1;
  bool awake_ ABSL_GUARDED_BY(mu_) = true;     // the owner
  bool full_ ABSL_GUARDED_BY(mu_) = false;     // the socket, or it has failed
  bool writing_ ABSL_GUARDED_BY(mu_) = false;  // who does has chunk_ and fd_
  std::string bytes_ ABSL_GUARDED_BY(mu_);     // behind chunk_
  std::string chunk_;
  size_t written_ = 0;  // of chunk_
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_OUTBOX_H_
