// TLS to brokers and result backends: what an operator sets, how OpenSSL is
// told, and TLS as a codec for a connection that owns its socket itself. Not
// thread-safe: each connection sets up its own, on its own thread, and reads
// the files again each time, so that renewed certificates are taken up.
// docs/configuration.md (TLS).

#ifndef PENSTOCK_QUEUE_TLS_H_
#define PENSTOCK_QUEUE_TLS_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct bio_st;
struct ssl_ctx_st;
struct ssl_st;

namespace penstock {

// The keys tls.*: for rediss:// and amqps:// alike.
struct TlsOptions {
  std::string ca_file;      // PEM; empty: the system's authorities
  std::string cert_file;    // PEM, the client's own chain; with key_file
  std::string key_file;     // PEM
  std::string server_name;  // what the certificate must name; empty: the host
  bool insecure_skip_verify = false;  // any certificate of anyone will do

  bool operator==(const TlsOptions&) const = default;
};

// INVALID_ARGUMENT, its text beginning with the key ("tls.ca_file: ..."), when
// a file cannot be read, or holds no such thing.
absl::Status CheckTls(const TlsOptions& options);

// What a handshake has found; filled while it runs.
struct TlsFindings {
  std::string name;     // that the server's certificate must have
  std::string refusal;  // why the server's certificate was not accepted
};

// Makes `context` demand TLS 1.2 or later and, unless it shall not, a chain to
// a known authority and a certificate of `host`, a name or an address.
// `findings` must outlive every connection made with `context`.
absl::Status SetUpTls(const TlsOptions& options, std::string_view host,
                      ssl_ctx_st* context, TlsFindings* findings);

// Sends that name in the handshake of `ssl`.
void SetTlsServerName(const TlsFindings& findings, ssl_st* ssl);

// What OpenSSL's last failure on this thread was, with its cure where there is
// one; empty when it has nothing to say. Takes it.
std::string TlsErrorText(const TlsFindings& findings);

// The client's end of one connection, between the bytes of the socket and those
// inside. Does no I/O: so the owner waits for its socket alone, whichever way
// TLS itself wants to send or read.
class TlsClient {
 public:
  // `host` as for SetUpTls. UNAVAILABLE when a file cannot be read any more.
  static absl::StatusOr<std::unique_ptr<TlsClient>> Make(
      const TlsOptions& options, std::string_view host);

  ~TlsClient();
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  // Takes the server's bytes as far as the handshake needs them; the first call
  // begins it, with none. After each call, failed ones too, TakeWire has what
  // the server must get.
  absl::Status Handshake(std::string_view wire);
  bool established() const { return established_; }

  // Takes the server's bytes and appends to `plain` what they hold.
  absl::Status Receive(std::string_view wire, std::string* plain);

  absl::Status Send(std::string_view plain);

  // Appends to `wire` what is to be sent.
  void TakeWire(std::string* wire);

 private:
  TlsClient() = default;

  absl::Status Feed(std::string_view wire);
  // OK when it only wants more bytes.
  absl::Status Failure(int result);

  TlsFindings findings_;
  ssl_ctx_st* context_ = nullptr;
  ssl_st* ssl_ = nullptr;
  bio_st* in_ = nullptr;   // of ssl_
  bio_st* out_ = nullptr;  // of ssl_
  bool established_ = false;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_TLS_H_
