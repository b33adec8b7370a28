// See tls.h. OpenSSL keeps its errors in a queue of each thread: it is emptied
// before a call whose errors are looked at.

#include "queue/tls.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <string.h>

#include <limits>

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

struct ContextDeleter {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

bool IsAddress(const std::string& host) {
  unsigned char bytes[16];
  return inet_pton(AF_INET, host.c_str(), bytes) == 1 ||
         inet_pton(AF_INET6, host.c_str(), bytes) == 1;
}

std::string ErrorText(unsigned long code) {
  char buffer[256];
  if (ERR_SYSTEM_ERROR(code)) {
    return strerror_r(ERR_GET_REASON(code), buffer, sizeof buffer);
  }
  if (const char* reason = ERR_reason_error_string(code)) return reason;
  ERR_error_string_n(code, buffer, sizeof buffer);
  return buffer;
}

// The deepest cause: what follows it only says that loading failed.
std::string FirstError() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  return code == 0 ? "unknown error" : ErrorText(code);
}

absl::Status BadFile(const char* key, const std::string& file,
                     const char* what) {
  return absl::InvalidArgumentError(absl::StrCat(
      key, ": ", file, " cannot be used as ", what, ": ", FirstError()));
}

// Never asks on the terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

absl::Status LoadFiles(const TlsOptions& options, SSL_CTX* context) {
  ERR_clear_error();
  if (options.ca_file.empty()) {
    SSL_CTX_set_default_verify_paths(context);
  } else if (SSL_CTX_load_verify_locations(context, options.ca_file.c_str(),
                                           nullptr) != 1) {
    return BadFile("tls.ca_file", options.ca_file, "certificates (PEM)");
  }
  if (options.cert_file.empty() && options.key_file.empty()) {
    return absl::OkStatus();
  }
  if (options.cert_file.empty()) {
    return absl::InvalidArgumentError("tls.key_file: needs tls.cert_file too");
  }
  if (options.key_file.empty()) {
    return absl::InvalidArgumentError("tls.cert_file: needs tls.key_file too");
  }
  if (SSL_CTX_use_certificate_chain_file(context, options.cert_file.c_str()) !=
      1) {
    return BadFile("tls.cert_file", options.cert_file, "a certificate (PEM)");
  }
  SSL_CTX_set_default_passwd_cb(context, NoPassphrase);
  if (SSL_CTX_use_PrivateKey_file(context, options.key_file.c_str(),
                                  SSL_FILETYPE_PEM) != 1) {
    return BadFile("tls.key_file", options.key_file,
                   "the key of tls.cert_file (PEM, without a passphrase)");
  }
  return absl::OkStatus();
}

// OpenSSL's own text for a failed handshake is "certificate verify failed".
int OnVerify(int accepted, X509_STORE_CTX* store) {
  if (accepted == 1) return 1;
  auto* ssl = static_cast<SSL*>(
      X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* findings =
      static_cast<TlsFindings*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  const int error = X509_STORE_CTX_get_error(store);
  findings->refusal = X509_verify_cert_error_string(error);
  switch (error) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      absl::StrAppend(&findings->refusal,
                      ": the server's certificate is not one of ",
                      findings->name,
                      "; connect by a name that it has, or set "
                      "tls.server_name to one");
      break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      absl::StrAppend(&findings->refusal,
                      "; set tls.ca_file to the certificate of the authority "
                      "that signed the server's");
      break;
    default:
      break;
  }
  return 0;
}

}  // namespace

absl::Status CheckTls(const TlsOptions& options) {
  const std::unique_ptr<SSL_CTX, ContextDeleter> context(
      SSL_CTX_new(TLS_client_method()));
  if (context == nullptr) return absl::InternalError(FirstError());
  return LoadFiles(options, context.get());
}

absl::Status SetUpTls(const TlsOptions& options, std::string_view host,
                      SSL_CTX* context, TlsFindings* findings) {
  if (absl::Status status = LoadFiles(options, context); !status.ok()) {
    return status;
  }
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION);
  const std::string name =
      options.server_name.empty() ? std::string(host) : options.server_name;
  findings->name = name;
  SSL_CTX_set_app_data(context, findings);
  if (options.insecure_skip_verify) {
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, nullptr);
    return absl::OkStatus();
  }
  X509_VERIFY_PARAM* rules = SSL_CTX_get0_param(context);
  X509_VERIFY_PARAM_set_hostflags(rules, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  const int taken =
      IsAddress(name)
          ? X509_VERIFY_PARAM_set1_ip_asc(rules, name.c_str())
          : X509_VERIFY_PARAM_set1_host(rules, name.data(), name.size());
  if (taken != 1 || name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", name, "\" is no name that a certificate can have"));
  }
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, OnVerify);
  return absl::OkStatus();
}

void SetTlsServerName(const TlsFindings& findings, SSL* ssl) {
  // An address is not sent: the protocol knows names only.
  const bool named = !findings.name.empty() && !IsAddress(findings.name);
  SSL_set_tlsext_host_name(
      ssl, named ? const_cast<char*>(findings.name.c_str()) : nullptr);
}

std::string TlsErrorText(const TlsFindings& findings) {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  if (!findings.refusal.empty()) {
    return absl::StrCat("certificate verify failed: ", findings.refusal);
  }
  if (code == 0) return "";
  const std::string text = ErrorText(code);
  if (ERR_GET_LIB(code) != ERR_LIB_SSL) return text;
  switch (ERR_GET_REASON(code)) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
      return "the server does not speak TLS at this port";
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
      return "the server closed the connection";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
      return absl::StrCat("the server refused tls.cert_file: ", text);
    default:
      return text;
  }
}

absl::StatusOr<std::unique_ptr<TlsClient>> TlsClient::Make(
    const TlsOptions& options, std::string_view host) {
  std::unique_ptr<TlsClient> client(new TlsClient);
  client->context_ = SSL_CTX_new(TLS_client_method());
  if (client->context_ == nullptr) return absl::UnavailableError(FirstError());
  absl::Status status =
      SetUpTls(options, host, client->context_, &client->findings_);
  if (!status.ok()) return absl::UnavailableError(status.message());
  client->ssl_ = SSL_new(client->context_);
  client->in_ = BIO_new(BIO_s_mem());
  client->out_ = BIO_new(BIO_s_mem());
  if (client->ssl_ == nullptr || client->in_ == nullptr ||
      client->out_ == nullptr) {
    BIO_free(client->in_);
    BIO_free(client->out_);
    return absl::UnavailableError(FirstError());
  }
  SSL_set_bio(client->ssl_, client->in_, client->out_);
  SSL_set_connect_state(client->ssl_);
  SetTlsServerName(client->findings_, client->ssl_);
  return client;
}

TlsClient::~TlsClient() {
  SSL_free(ssl_);  // with its BIOs
  SSL_CTX_free(context_);
}

absl::Status TlsClient::Feed(std::string_view wire) {
  if (wire.empty()) return absl::OkStatus();
  // It grows: all or, without memory, nothing.
  if (wire.size() > std::numeric_limits<int>::max() ||
      BIO_write(in_, wire.data(), static_cast<int>(wire.size())) <= 0) {
    return absl::UnavailableError("out of memory");
  }
  return absl::OkStatus();
}

absl::Status TlsClient::Failure(int result) {
  const int error = SSL_get_error(ssl_, result);
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
    return absl::OkStatus();
  }
  if (error == SSL_ERROR_ZERO_RETURN) {
    return absl::UnavailableError("the server closed the connection");
  }
  const std::string text = TlsErrorText(findings_);
  return absl::UnavailableError(
      absl::StrCat("TLS: ", text.empty() ? "unknown error" : text));
}

absl::Status TlsClient::Handshake(std::string_view wire) {
  if (absl::Status status = Feed(wire); !status.ok()) return status;
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_);
  established_ = result == 1;
  return established_ ? absl::OkStatus() : Failure(result);
}

absl::Status TlsClient::Receive(std::string_view wire, std::string* plain) {
  if (absl::Status status = Feed(wire); !status.ok()) return status;
  char chunk[16 * 1024];  // the largest record
  while (true) {
    ERR_clear_error();
    const int n = SSL_read(ssl_, chunk, sizeof chunk);
    if (n <= 0) return Failure(n);
    plain->append(chunk, static_cast<size_t>(n));
  }
}

absl::Status TlsClient::Send(std::string_view plain) {
  size_t written = 0;
  ERR_clear_error();
  // Into memory, so it takes all of it.
  if (plain.empty() ||
      SSL_write_ex(ssl_, plain.data(), plain.size(), &written) == 1) {
    return absl::OkStatus();
  }
  absl::Status status = Failure(0);
  return status.ok() ? absl::UnavailableError("TLS: cannot write") : status;
}

void TlsClient::TakeWire(std::string* wire) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(out_, &data);
  if (size > 0) wire->append(data, static_cast<size_t>(size));
  (void)BIO_reset(out_);
}

}  // namespace penstock
