// A TCP proxy that misbehaves on demand: it forwards connections to a port of
// 127.0.0.1, cuts them, refuses new ones, or stalls (takes nothing more, so
// that the sender's socket fills up). Every method is thread-safe and has taken
// effect when it returns.

#ifndef PENSTOCK_TESTS_SUPPORT_TCP_CUTTER_H_
#define PENSTOCK_TESTS_SUPPORT_TCP_CUTTER_H_

#include <functional>
#include <list>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace penstock::testing {

class TcpCutter {
 public:
  // Listens on a free port.
  explicit TcpCutter(int target_port);
  ~TcpCutter();
  TcpCutter(const TcpCutter&) = delete;
  TcpCutter& operator=(const TcpCutter&) = delete;

  int port() const { return port_; }

  // Resets every connection (RST, as a crash of the host's kernel would).
  void Cut();

  // While on, new connections are reset at once.
  void Refuse(bool on);

  // While on, nothing is read from either side, and nothing forwarded.
  void Stall(bool on);

  // How many connections were taken and forwarded so far.
  int accepted() const;

 private:
  // One direction of a connection.
  struct Pipe {
    int from = -1;
    int to = -1;
    std::string buffer;
    bool ended = false;  // `from` sends nothing more
  };
  struct Link {
    Pipe up;    // client to server
    Pipe down;  // server to client
    bool broken = false;
  };

  void Run(const std::stop_token& stop);
  void Accept() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static void Read(Pipe& pipe, Link& link);
  static void Write(Pipe& pipe, Link& link);
  static void Close(Link& link);
  void Wake();

  const int target_port_;
  int listener_ = -1;
  int port_ = 0;
  int wake_ = -1;

  mutable absl::Mutex mu_;
  std::list<Link> links_ ABSL_GUARDED_BY(mu_);
  bool refuse_ ABSL_GUARDED_BY(mu_) = false;
  bool stall_ ABSL_GUARDED_BY(mu_) = false;
  int accepted_ ABSL_GUARDED_BY(mu_) = 0;

  std::jthread thread_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_TCP_CUTTER_H_
