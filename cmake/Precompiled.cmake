# Included under a sanitizer: what most sources include of others' headers, parsed
# once, which takes two seconds from each of them. Preset dev has none of it: there an
# #include that a source lacks is missed, and clang-tidy, which does not read gcc's
# precompiled headers, reads its commands.

# gcc takes it only where these are as they were for it; gRPC, hiredis and googletest
# want them, each for its own users.
set(CMAKE_POSITION_INDEPENDENT_CODE OFF)
add_compile_options(-pthread -D_FILE_OFFSET_BITS=64 -DGTEST_HAS_PTHREAD=1)

file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/precompiled.cc CONTENT "")
add_library(penstock_precompiled OBJECT ${PROJECT_BINARY_DIR}/precompiled.cc)
target_link_libraries(penstock_precompiled PRIVATE penstock_flags)
target_precompile_headers(
  penstock_precompiled
  PRIVATE <algorithm> <array> <atomic> <chrono> <cstdint> <functional> <map>
          <memory> <optional> <set> <string> <string_view> <thread> <utility>
          <variant> <vector>
          <absl/functional/any_invocable.h>
          <absl/status/statusor.h>
          <absl/strings/match.h>
          <absl/strings/numbers.h>
          <absl/strings/str_cat.h>
          <absl/strings/str_format.h>
          <absl/strings/str_join.h>
          <absl/strings/str_split.h>
          <absl/synchronization/mutex.h>
          <absl/synchronization/notification.h>
          <absl/time/clock.h>
          <absl/time/time.h>
          <gmock/gmock.h>
          <gtest/gtest.h>)
