// The documents that real Go machinery wrote, out of tests/interop/golden.

#ifndef PENSTOCK_TESTS_UNIT_GOLDEN_H_
#define PENSTOCK_TESTS_UNIT_GOLDEN_H_

#include <string>
#include <vector>

namespace penstock {

struct GoldenDocument {
  std::string file;
  std::string json;
};

struct GoldenDocuments {
  int files = 0;
  std::vector<GoldenDocument> tasks;   // signatures, as message bodies
  std::vector<GoldenDocument> states;  // task states
  std::vector<GoldenDocument> groups;  // group records
};

// Every different document of all files, wherever in a file it stands: in a
// publish, a delivery, a SET, a reply, a snapshot.
const GoldenDocuments& Golden();

}  // namespace penstock

#endif  // PENSTOCK_TESTS_UNIT_GOLDEN_H_
