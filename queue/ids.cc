// Random and named UUIDs (RFC 4122), fingerprints, and the rules of a caller's
// ids. OpenSSL does the arithmetic.

#include "queue/ids.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

using UuidBytes = std::array<uint8_t, 16>;

// 8b1e6c1c-52a8-4c53-9d0e-6f1b4f2f7a35: drawn once, for ever ours. Another one
// would give the children of tasks that are under way new ids.
constexpr UuidBytes kNameSpace = {0x8b, 0x1e, 0x6c, 0x1c, 0x52, 0xa8,
                                  0x4c, 0x53, 0x9d, 0x0e, 0x6f, 0x1b,
                                  0x4f, 0x2f, 0x7a, 0x35};

constexpr size_t kMaxIdLength = 200;
constexpr absl::string_view kReservedPrefixes[] = {
    "penstock:", "machinery_lock_", "TriggerChordMutex", "delayed_tasks"};

// An id that is not unique would merge two tasks: there is no going on.
[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "penstock: %s failed\n", what);
  std::abort();
}

void AppendHex(std::span<const uint8_t> bytes, std::string* out) {
  constexpr char kDigits[] = "0123456789abcdef";
  for (const uint8_t byte : bytes) {
    out->push_back(kDigits[byte >> 4]);
    out->push_back(kDigits[byte & 15]);
  }
}

std::string FormatUuid(UuidBytes bytes, int version) {
  bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0f) | (version << 4));
  bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3f) | 0x80);
  const std::span<const uint8_t> all(bytes);
  std::string text;
  text.reserve(36);
  AppendHex(all.subspan(0, 4), &text);
  for (const size_t group : {4, 6, 8}) {
    text.push_back('-');
    AppendHex(all.subspan(group, 2), &text);
  }
  text.push_back('-');
  AppendHex(all.subspan(10, 6), &text);
  return text;
}

using Digest = std::array<uint8_t, EVP_MAX_MD_SIZE>;

// OpenSSL's way to an algorithm by its name is longer than the hash of a task.
const EVP_MD* Fetch(const char* name) {
  const EVP_MD* algorithm = EVP_MD_fetch(nullptr, name, nullptr);
  if (algorithm == nullptr) Die("EVP_MD_fetch");
  return algorithm;
}
const EVP_MD* Sha256() {
  static const EVP_MD* const algorithm = Fetch("SHA256");
  return algorithm;
}
const EVP_MD* Sha1() {
  static const EVP_MD* const algorithm = Fetch("SHA1");
  return algorithm;
}

Digest DigestOf(const EVP_MD* algorithm, std::string_view bytes) {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  thread_local const std::unique_ptr<EVP_MD_CTX, Free> context(
      EVP_MD_CTX_new());
  Digest digest = {};
  if (EVP_DigestInit_ex(context.get(), algorithm, nullptr) != 1 ||
      EVP_DigestUpdate(context.get(), bytes.data(), bytes.size()) != 1 ||
      EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) != 1) {
    Die("EVP_Digest");
  }
  return digest;
}

bool IsIdCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' ||
         c == '.' || c == ':' || c == '-';
}

}  // namespace

// Drawn many at a time: a call of OpenSSL's costs more than the bytes.
std::string RandomUuid() {
  thread_local std::array<UuidBytes, 64> drawn;
  thread_local size_t left = 0;
  if (left == 0) {
    if (RAND_bytes(drawn[0].data(), sizeof drawn) != 1) Die("RAND_bytes");
    left = drawn.size();
  }
  return FormatUuid(drawn[--left], 4);
}

std::string NamedUuid(std::string_view name) {
  std::string hashed(kNameSpace.begin(), kNameSpace.end());
  hashed.append(name);
  const Digest digest = DigestOf(Sha1(), hashed);
  UuidBytes bytes;
  std::copy_n(digest.begin(), bytes.size(), bytes.begin());
  return FormatUuid(bytes, 5);
}

std::string Fingerprint(std::string_view bytes) {
  const Digest digest = DigestOf(Sha256(), bytes);
  std::string text;
  AppendHex(std::span(digest).first(32), &text);
  return text;
}

absl::Status CheckId(std::string_view id) {
  if (id.empty()) return absl::InvalidArgumentError("must not be empty");
  if (id.size() > kMaxIdLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("is ", id.size(), " characters long; at most ",
                     kMaxIdLength, " are allowed"));
  }
  for (const char c : id) {
    if (!IsIdCharacter(c)) {
      return absl::InvalidArgumentError(
          "may hold only letters, digits and the characters _ . : -");
    }
  }
  const absl::string_view text(id.data(), id.size());
  for (const absl::string_view prefix : kReservedPrefixes) {
    if (absl::StartsWith(text, prefix)) {
      return absl::InvalidArgumentError(
          absl::StrCat("must not begin with \"", prefix,
                       "\", which names keys of the queue itself"));
    }
  }
  return absl::OkStatus();
}

}  // namespace penstock
