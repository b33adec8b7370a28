# The components: worker, client. Without COMPONENTS: those that were installed
# and whose libraries are here. What each needs is what it is linked with: see
# cmake/Dependencies.cmake and proto/CMakeLists.txt.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(absl)
include(${CMAKE_CURRENT_LIST_DIR}/Penstock_common.cmake)

# Says in `missing` what a component needs and is not here; empty: nothing.
macro(_penstock_needs_worker missing)
  set(${missing} "")
  foreach(_penstock_package IN ITEMS OpenSSL spdlog yaml-cpp rabbitmq-c PkgConfig)
    find_package(${_penstock_package} QUIET)
    if(NOT ${_penstock_package}_FOUND)
      list(APPEND ${missing} ${_penstock_package})
    endif()
  endforeach()
  # hiredis 0.14 has no CMake target of its own.
  if(PkgConfig_FOUND)
    pkg_check_modules(HIREDIS QUIET IMPORTED_TARGET hiredis)
    if(NOT HIREDIS_FOUND)
      list(APPEND ${missing} hiredis)
    endif()
  endif()
endmacro()

macro(_penstock_needs_client missing)
  set(${missing} "")
  # Protobuf first: gRPC's config needs its targets.
  foreach(_penstock_package IN ITEMS Protobuf gRPC)
    find_package(${_penstock_package} QUIET)
    if(NOT ${_penstock_package}_FOUND)
      list(APPEND ${missing} ${_penstock_package})
    endif()
  endforeach()
endmacro()

set(_penstock_asked ${Penstock_FIND_COMPONENTS})
if(NOT _penstock_asked)
  set(_penstock_asked worker client)
endif()
foreach(_penstock_component IN LISTS _penstock_asked)
  set(Penstock_${_penstock_component}_FOUND FALSE)
  set(_penstock_targets
      ${CMAKE_CURRENT_LIST_DIR}/Penstock_${_penstock_component}.cmake)
  if(NOT _penstock_component MATCHES "^(worker|client)$"
     OR NOT EXISTS ${_penstock_targets})
    set(_penstock_why "this installation has no ${_penstock_component}")
  else()
    cmake_language(CALL _penstock_needs_${_penstock_component} _penstock_missing)
    if(_penstock_missing)
      list(JOIN _penstock_missing ", " _penstock_missing)
      set(_penstock_why
          "penstock::${_penstock_component} needs ${_penstock_missing}")
    else()
      include(${_penstock_targets})
      set(Penstock_${_penstock_component}_FOUND TRUE)
    endif()
  endif()
  if(Penstock_FIND_REQUIRED_${_penstock_component}
     AND NOT Penstock_${_penstock_component}_FOUND)
    set(Penstock_FOUND FALSE)
    set(Penstock_NOT_FOUND_MESSAGE ${_penstock_why})
  endif()
endforeach()
if(NOT Penstock_worker_FOUND AND NOT Penstock_client_FOUND)
  set(Penstock_FOUND FALSE)
  set(Penstock_NOT_FOUND_MESSAGE ${_penstock_why})
endif()
