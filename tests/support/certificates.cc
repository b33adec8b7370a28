// See certificates.h.

#include "tests/support/certificates.h"

#include <stdio.h>
#include <stdlib.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace penstock::testing {
namespace {

void Request(const std::string& subject, const std::string& cert_file,
             const std::string& key_file, std::vector<std::string> more) {
  std::vector<std::string> argv = {"openssl",
                                   "req",
                                   "-x509",
                                   "-newkey",
                                   "ec",
                                   "-pkeyopt",
                                   "ec_paramgen_curve:prime256v1",
                                   "-nodes",
                                   "-days",
                                   "2",
                                   "-subj",
                                   absl::StrCat("/CN=", subject),
                                   "-out",
                                   cert_file,
                                   "-keyout",
                                   key_file};
  argv.insert(argv.end(), more.begin(), more.end());
  const absl::StatusOr<std::string> made =
      RunCommand({.argv = std::move(argv), .environment = {}, .log_file = ""},
                 absl::Seconds(60));
  if (made.ok()) return;
  fprintf(stderr, "no certificate: %s\n", made.status().ToString().c_str());
  abort();
}

}  // namespace

Authority::Authority() {
  Request("Penstock test authority", ca_file(), Path("ca.key"), {});
}

Authority::Pair Authority::Issue(const std::string& name,
                                 const std::string& names) const {
  Pair pair = {Path(name + ".pem"), Path(name + ".key")};
  Request(name, pair.cert_file, pair.key_file,
          {"-CA", ca_file(), "-CAkey", Path("ca.key"), "-addext",
           "subjectAltName=" + names, "-addext",
           "basicConstraints=critical,CA:FALSE"});
  return pair;
}

}  // namespace penstock::testing
