# Two small images that run as a user without rights:
#   docker build --target gateway -t penstock-gateway .
#   docker build --target worker -t penstock-worker .
# Configuration: docs/configuration.md, by environment (PENSTOCK_BROKER, ...),
# flags after the image's name, or a mounted file and --config=FILE.
# All at once: deploy/compose.yaml; on Kubernetes: deploy/k8s.
# tests/image/run carries these steps out where there is no container engine.

FROM debian:bookworm AS build
WORKDIR /src
COPY deploy/packages deploy/install-packages deploy/
RUN deploy/install-packages build
COPY . .
RUN cmake --preset release && cmake --build --preset release
RUN cmake --install build/release --prefix /opt/penstock --strip

FROM debian:bookworm-slim AS run
COPY deploy/packages deploy/install-packages /tmp/deploy/
RUN /tmp/deploy/install-packages run && rm -rf /tmp/deploy /var/lib/apt/lists/*
USER 65532:65532

FROM run AS gateway
COPY --from=build /opt/penstock/bin/penstock-gateway \
  /opt/penstock/bin/penstockctl /usr/local/bin/
ENV PENSTOCK_LISTEN=0.0.0.0:50051
EXPOSE 50051
ENTRYPOINT ["penstock-gateway"]

FROM run AS worker
COPY --from=build /opt/penstock/bin/penstock-worker /usr/local/bin/
ENTRYPOINT ["penstock-worker"]
