# Included when PENSTOCK_SANITIZE is "thread". Debian's absl is not instrumented,
# so tests/support/tsan_absl.cc stands between it and our code: every function
# that it wraps is found in its text, so that there is one list.

set(wrapper ${PROJECT_SOURCE_DIR}/tests/support/tsan_absl.cc)
add_library(penstock_tsan_absl OBJECT ${wrapper})
# Optimised, so that it has no copies of absl's inline functions of its own: the
# linker could take them in place of our code's, which are instrumented.
set_source_files_properties(${wrapper} PROPERTIES COMPILE_OPTIONS
                            "-fno-sanitize=thread;-O2")
target_link_libraries(penstock_tsan_absl PRIVATE absl::synchronization
                                                 absl::status)
target_link_libraries(penstock_flags
                      INTERFACE $<TARGET_OBJECTS:penstock_tsan_absl>
                                absl::synchronization absl::status)

file(STRINGS ${wrapper} lines REGEX "_ZNK?4absl")
foreach(line IN LISTS lines)
  string(REGEX MATCH "_ZNK?4absl[A-Za-z0-9_]+" symbol "${line}")
  target_link_options(penstock_flags INTERFACE -Wl,--wrap=${symbol})
endforeach()

# absl's flags use fences, of which gcc warns that this sanitizer does not follow
# them: main() reads flags before there is a second thread.
target_compile_options(penstock_flags INTERFACE -Wno-tsan)
