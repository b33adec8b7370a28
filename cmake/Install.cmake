# The C++ SDK as a CMake package, for programs that write their own workers:
#
#   find_package(Penstock REQUIRED)
#   target_link_libraries(my-worker PRIVATE penstock::worker)
#
# Binaries and .proto files are installed where they are made.
include(CMakePackageConfigHelpers)

set(sdk
    flags vocabulary wire telemetry rules lifecycle memory amqp redis config open
    tls worker)
foreach(name IN LISTS sdk)
  set_target_properties(penstock_${name} PROPERTIES EXPORT_NAME ${name})
  install(TARGETS penstock_${name} EXPORT PenstockTargets)
endforeach()

# Headers keep their paths, under a directory that is ours.
set(headers ${CMAKE_INSTALL_INCLUDEDIR}/penstock)
target_include_directories(penstock_flags
                           INTERFACE $<INSTALL_INTERFACE:${headers}>)
install(
  DIRECTORY ${PROJECT_SOURCE_DIR}/sdk/cpp/penstock ${PROJECT_SOURCE_DIR}/queue
  DESTINATION ${headers}
  FILES_MATCHING
  PATTERN "*.h")

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Penstock)
install(EXPORT PenstockTargets NAMESPACE penstock:: DESTINATION ${package})
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/PenstockConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_SOURCE_DIR}/cmake/PenstockConfig.cmake
              ${PROJECT_BINARY_DIR}/PenstockConfigVersion.cmake
        DESTINATION ${package})
