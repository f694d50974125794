# Both programs in one image: a cluster's nodes run `proposer`, the operator is the entrypoint.
# The builder's own platform compiles for TARGETARCH: emulating another one would be far slower. Builders that set
# neither variable build for themselves.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1-bookworm AS build
ARG TARGETARCH
RUN arch="${TARGETARCH:-$(dpkg --print-architecture)}" \
    && case "$arch" in \
      amd64) machine=x86_64 package=x86-64-linux-gnu ;; \
      arm64) machine=aarch64 package=aarch64-linux-gnu ;; \
      *) echo "no build for $arch" >&2; exit 1 ;; \
    esac \
    && if ! command -v "$machine-linux-gnu-gcc"; then \
      apt-get update \
      && apt-get install --yes --no-install-recommends "gcc-$package" "libc6-dev-$arch-cross" \
      && rm -rf /var/lib/apt/lists/*; \
    fi \
    && rustup target add "$machine-unknown-linux-gnu" \
    && echo "$machine" > /machine
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    machine="$(cat /machine)" \
    && target="$machine-unknown-linux-gnu" tools="$machine-linux-gnu" \
    && variable="$(echo "$target" | tr a-z- A-Z_)" \
    && export "CARGO_TARGET_${variable}_LINKER=$tools-gcc" \
    && cargo build --locked --release --target "$target" --package proposer --package paxos-operator \
    && install -D --strip --strip-program="$tools-strip" --target-directory=/out \
      "target/$target/release/proposer" "target/$target/release/paxos-operator"

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
