# Every command a developer needs. `make demo` and `make test` do all the set-up themselves.
SHELL := /bin/bash
CARGO ?= cargo

.PHONY: demo demo-monitoring test lint fix crds setup sim model canaries fuzz chaos soak upgrade e2e fleet bench bench-growth bench-build image

## demo: run the full sample on this machine and show a failover
demo: setup
	$(CARGO) build --locked -p proposer -p paxos-operator
	tests/demo/demo.sh

## demo-monitoring: run a sample on this machine with Prometheus beside it, on port 9090
demo-monitoring: setup
	$(CARGO) build --locked -p proposer -p paxos-operator
	tests/demo/monitoring.sh

## test: every test that needs no Kubernetes
test: setup
	# All at once: the programs alone would have every dependency built twice, for other features.
	$(CARGO) build --locked --workspace --all-targets
	$(CARGO) test --locked --workspace

## lint: formatting, clippy and rustdoc without warnings; writes nothing
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

## fix: formats the code and regenerates what is generated
fix: crds
	$(CARGO) fmt --all

## crds: regenerate the CRD, in crds/ and in the chart
crds:
	$(CARGO) run --locked -q -p paxos-operator -- crd > crds/paxosclusters.yaml
	cp crds/paxosclusters.yaml charts/paxos-operator/files/

## setup: tools that the tests need and a fresh machine may lack, into .tools/
setup:
	tests/tools/install-helm.sh
	tests/tools/install-debian.sh prometheus prometheus promtool
	tests/tools/install-debian.sh valgrind valgrind

## sim: many seeds of the simulator (SEEDS=0..20000)
SEEDS ?= 0..20000
sim:
	$(CARGO) run --locked -p testkit --bin sim -- --seeds $(SEEDS) --events 20000

## model: every order of events in every configuration of the model
model:
	$(CARGO) run --locked --release -p testkit --bin model

## canaries: the core with one deliberate bug at a time must be noticed (WORD=text of a canary, SEEDS=0..1000)
WORD ?=
canaries: SEEDS = 0..1000
canaries:
	$(CARGO) run --locked -p testkit --bin canaries -- "$(WORD)" $(SEEDS)

## fuzz: every decoder and every route, with CASES times the inputs of `make test` (CASES=200, SEED=1)
CASES ?= 200
SEED ?= 1
fuzz:
	$(CARGO) build --locked -p proposer
	FUZZ_TIMES=$(CASES) FUZZ_SEED=$(SEED) $(CARGO) test --locked -p tests --test fuzz -- --nocapture

## chaos: processes, networks, disks and clocks fail under load; compares everything (CYCLES=200)
CYCLES ?= 200
chaos:
	$(CARGO) build --locked --release -p proposer
	PROPOSER=$(CURDIR)/target/release/proposer \
	    $(CARGO) run --locked -p testkit --bin chaos -- --cycles $(CYCLES) --faults all

## soak: SOAKS runs of a minute, each a cluster of its own under kills and partitions with 8 clients
SOAKS ?= 20
soak:
	$(CARGO) build --locked --release -p proposer
	PROPOSER=$(CURDIR)/target/release/proposer $(CARGO) run --locked -p testkit --bin chaos -- \
	    --soak $(SOAKS) --seconds 60 --faults kill,split,partial,mute,deaf

## upgrade: a cluster under writers, rolled from a build of the wire version before to this one and back (OLD=commit)
OLD ?= 321ffc2
OLD_BUILD = target/old/$(OLD)
upgrade:
	rm -rf $(OLD_BUILD)
	mkdir -p $(OLD_BUILD)
	git archive $(OLD) | tar --extract --touch --directory $(OLD_BUILD)
	$(CARGO) build --locked --release --manifest-path $(OLD_BUILD)/Cargo.toml --target-dir $(OLD_BUILD)/target \
	    -p proposer
	$(CARGO) build --locked --release -p proposer
	PROPOSER=$(CURDIR)/target/release/proposer \
	    $(CARGO) run --locked -p testkit --bin upgrade -- --old $(OLD_BUILD)/target/release/proposer

## e2e: on the cluster of KUBECONFIG, with an IMAGE that its nodes have
e2e:
	$(CARGO) test --locked -p tests --test e2e -- --nocapture

## fleet: many clusters among many objects of others, on the control plane of KUBECONFIG
fleet:
	$(CARGO) build --locked --release -p paxos-operator
	$(CARGO) test --locked -p tests --test fleet -- --nocapture

## bench: our cluster, etcd and limits of the machine in turn, into docs/benchmarks.md (ROUNDS=5: 13 min)
ROUNDS ?= 5
bench: bench-build
	tests/tools/install-debian.sh etcd-server etcd
	$(BENCH) table --rounds $(ROUNDS) --into docs/benchmarks.md

## bench-growth: our cluster alone, with one thing that grows, into docs/benchmarks.md (5 min)
bench-growth: bench-build
	$(BENCH) growth --into docs/benchmarks.md

BENCH = PROPOSER=$(CURDIR)/target/release/proposer target/release/bench
bench-build:
	$(CARGO) build --locked --release -p proposer -p bench --bin proposer --bin bench

## image: the container image with both programs (IMAGE=name:tag, BUILDER=buildah or docker)
IMAGE ?= ghcr.io/clustersync/cluster-sync:dev
BUILDER ?= buildah
image:
	$(BUILDER) build -t $(IMAGE) .
