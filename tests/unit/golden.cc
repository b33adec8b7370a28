// See golden.h. A document is known by the member that Go writes first.

#include "tests/unit/golden.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>

#include "queue/json.h"
#include "queue/json_reader.h"

namespace penstock {
namespace {

struct Collector {
  GoldenDocuments found;
  std::set<std::string> seen;
  std::string file;

  void Add(std::string json) {
    std::vector<GoldenDocument>* list = nullptr;
    if (json.starts_with("{\"UUID\":")) list = &found.tasks;
    if (json.starts_with("{\"TaskUUID\":")) list = &found.states;
    if (json.starts_with("{\"GroupUUID\":")) list = &found.groups;
    if (list == nullptr || !seen.insert(json).second) return;
    list->push_back({file, std::move(json)});
  }

  // Adds every string in the next value of `reader`.
  void Walk(JsonReader& reader) {
    std::string key;
    switch (reader.Kind()) {
      case JsonKind::kObject:
        reader.Enter();
        while (reader.NextMember(&key)) Walk(reader);
        return;
      case JsonKind::kArray:
        reader.Enter();
        while (reader.NextElement()) Walk(reader);
        return;
      case JsonKind::kString:
        Add(ParseJsonString(reader.Skip()).value_or(""));
        return;
      default:
        reader.Skip();
    }
  }
};

GoldenDocuments Load() {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry :
       std::filesystem::directory_iterator(PENSTOCK_GOLDEN_DIR)) {
    if (entry.path().extension() == ".json") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  Collector collector;
  for (const std::filesystem::path& path : paths) {
    std::ifstream stream(path, std::ios::binary);
    std::stringstream text;
    text << stream.rdbuf();
    const std::string json = text.str();
    JsonReader reader(json);
    collector.file = path.filename();
    collector.Walk(reader);
    if (reader.AtEnd()) ++collector.found.files;
  }
  return collector.found;
}

}  // namespace

const GoldenDocuments& Golden() {
  static const GoldenDocuments* const golden = new GoldenDocuments(Load());
  return *golden;
}

}  // namespace penstock
