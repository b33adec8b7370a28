#include "queue/command_line.h"

#include <algorithm>
#include <cstdio>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace penstock {

absl::StatusOr<std::map<std::string, std::string>> ParseFlags(
    int argc, char** argv, absl::Span<const char* const> names) {
  std::map<std::string, std::string> given;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (!absl::ConsumePrefix(&argument, "--")) {
      return absl::InvalidArgumentError(
          absl::StrCat("unexpected argument \"", argv[i], "\""));
    }
    const size_t equals = argument.find('=');
    const std::string name(argument.substr(0, equals));
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag --", name, "; --help lists them"));
    }
    absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    std::string value;
    if (equals != absl::string_view::npos) {
      value = std::string(argument.substr(equals + 1));
    } else if (flag->IsOfType<bool>()) {
      value = "true";
    } else if (i + 1 < argc) {
      value = argv[++i];
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--", name, " needs a value"));
    }
    // The value of a URL may hold a password: it is not repeated.
    if (std::string why; !flag->ParseFrom(value, &why)) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, ": ", why));
    }
    given[name] = value;
  }
  return given;
}

bool AsksForHelp(int argc, char** argv) {
  return std::find(argv, argv + argc, absl::string_view("--help")) !=
         argv + argc;
}

void PrintHelp(const char* usage, absl::Span<const char* const> names) {
  std::printf("%s\n", usage);
  for (const char* name : names) {
    const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    std::printf("  --%-24s %s\n", name, flag->Help().c_str());
  }
}

}  // namespace penstock
