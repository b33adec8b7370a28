# The C++ packages, for programs that write workers or call the gateway:
#
#   find_package(Penstock REQUIRED COMPONENTS worker client)
#   target_link_libraries(my-worker PRIVATE penstock::worker)
#   target_link_libraries(my-service PRIVATE penstock::client)
#
# Each component has targets of its own, so that a worker is built without gRPC
# and a client without RabbitMQ's and Redis' libraries. Binaries and .proto files
# are installed where they are made.
include(CMakePackageConfigHelpers)

# What both need.
set(common flags)
set(worker vocabulary wire telemetry rules lifecycle memory amqp redis config
           open tls runtime worker)
set(client proto client)
set(components common worker)
if(PENSTOCK_BUILD_GRPC)
  list(APPEND components client)
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Penstock)
foreach(component IN LISTS components)
  foreach(name IN LISTS ${component})
    set_target_properties(penstock_${name} PROPERTIES EXPORT_NAME ${name})
    install(TARGETS penstock_${name} EXPORT Penstock_${component})
  endforeach()
  install(EXPORT Penstock_${component} NAMESPACE penstock::
          FILE Penstock_${component}.cmake DESTINATION ${package})
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

write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/PenstockConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_SOURCE_DIR}/cmake/PenstockConfig.cmake
              ${PROJECT_BINARY_DIR}/PenstockConfigVersion.cmake
        DESTINATION ${package})
