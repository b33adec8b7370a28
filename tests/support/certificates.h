// Certificates of a test's own, made by the openssl command in a directory of
// theirs and gone with it. One thread.

#ifndef PENSTOCK_TESTS_SUPPORT_CERTIFICATES_H_
#define PENSTOCK_TESTS_SUPPORT_CERTIFICATES_H_

#include <string>

#include "tests/support/process.h"

namespace penstock::testing {

class Authority {
 public:
  Authority();  // aborts when openssl fails

  std::string ca_file() const { return Path("ca.pem"); }

  struct Pair {
    std::string cert_file;
    std::string key_file;
  };
  // `names` as openssl has them: "DNS:localhost,IP:127.0.0.1".
  Pair Issue(const std::string& name, const std::string& names) const;

 private:
  std::string Path(const std::string& file) const {
    return directory_.path() + "/" + file;
  }

  const TempDirectory directory_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_CERTIFICATES_H_
