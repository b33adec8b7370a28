# What Penstock links. All of it is in Debian bookworm: see deploy/packages.

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(rabbitmq-c CONFIG REQUIRED)

# hiredis 0.14 has no CMake target of its own.
find_package(PkgConfig REQUIRED)
pkg_check_modules(HIREDIS REQUIRED IMPORTED_TARGET hiredis)

if(PENSTOCK_BUILD_GRPC)
  # Protobuf first: gRPC's config needs its targets.
  find_package(Protobuf REQUIRED)
  find_package(gRPC CONFIG REQUIRED)
endif()

if(PENSTOCK_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
