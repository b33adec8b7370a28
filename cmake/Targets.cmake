# One library an arrow of docs/architecture.md: what a room may include is what
# its target links, so a wrong arrow does not link.

add_library(penstock_flags INTERFACE)
target_include_directories(
  penstock_flags INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
# Not for programs that use the installed SDK: their warnings are theirs.
set(warnings -Wall -Wextra -Wpedantic -Wno-missing-field-initializers)
if(PENSTOCK_WERROR)
  list(APPEND warnings -Werror)
endif()
target_compile_options(penstock_flags INTERFACE "$<BUILD_INTERFACE:${warnings}>")
target_compile_features(penstock_flags INTERFACE cxx_std_20)
if(PENSTOCK_SANITIZE)
  add_compile_options(-fsanitize=${PENSTOCK_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${PENSTOCK_SANITIZE})
endif()
if(PENSTOCK_SANITIZE STREQUAL "thread")
  include(ThreadSanitizer)
endif()

# Where there are precompiled headers (cmake/Precompiled.cmake).
function(penstock_precompiled name)
  if(TARGET penstock_precompiled)
    target_precompile_headers(${name} REUSE_FROM penstock_precompiled)
  endif()
endfunction()

# penstock_library(NAME SOURCES... LINKS... PRIVATE_LINKS...)
function(penstock_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  string(REPLACE "penstock_" "penstock::" alias ${name})
  add_library(${alias} ALIAS ${name})
  target_link_libraries(${name} PUBLIC penstock_flags ${ARG_LINKS}
                                PRIVATE ${ARG_PRIVATE_LINKS})
  penstock_precompiled(${name})
endfunction()
