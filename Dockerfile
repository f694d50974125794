# Both programs in one image: a cluster's nodes run `proposer`, the operator is the entrypoint.
FROM docker.io/library/rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package proposer --package paxos-operator \
    && install -D --strip --target-directory=/out target/release/proposer target/release/paxos-operator

# glibc and CA certificates, no shell. Its Debian is the build stage's, so glibc is the one linked against.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Cluster Sync" \
      org.opencontainers.image.description="Multi-Paxos for Kubernetes: the node and its operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/ /usr/local/bin/
# By number: a kubelet cannot tell from a name that it is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/paxos-operator"]
CMD ["run"]
