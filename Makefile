# Everything a person or CI runs. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

TOOLS := $(CURDIR)/.tools/bin
CHART := charts/bottlerocket-update-operator

.PHONY: help
help: ## List these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## Build the control plane that tests and demo run on (from Go modules, cached in .tools/)
	@testbed/tools/build.sh

.PHONY: build
build: tools
	@cargo build --workspace --bins

.PHONY: demo
demo: build ## Roll an example plan out on a real control plane; KEEP=1 leaves it up
	@cargo run --quiet -p testbed --bin demo -- $(if $(KEEP),--keep)

.PHONY: test
test: build ## Run every test, on a real control plane
	@testbed/tools/test.sh

.PHONY: lint
lint: ## Formatting, clippy, generated files, mutants that still apply, licences and bans
	@cargo fmt --all --check
	@mutants/run.sh --check
	@cargo clippy --workspace --all-targets -- --deny warnings
	@cargo run --quiet -p api --example crds -- --check crds $(CHART)/crds
	@testbed/tools/deny.sh

.PHONY: crds
crds: ## Write crds/ and the chart's copy from the types in api/
	@cargo run --quiet -p api --example crds -- crds $(CHART)/crds

.PHONY: manifest
manifest: tools ## Write dist/manifest.yaml: CRDs and chart in one file for kubectl apply
	@mkdir -p dist
	@printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: brupop-bottlerocket-aws}\n' > dist/manifest.yaml
	@$(TOOLS)/helm template bottlerocket-update-operator $(CHART) --namespace brupop-bottlerocket-aws --include-crds --kube-version 1.36.3 >> dist/manifest.yaml
	@echo "dist/manifest.yaml: $$(grep -c '^kind:' dist/manifest.yaml) objects"

.PHONY: bench
bench: tools ## Measure the operator's own time per node and its requests, on nodes without latency; and plan() by itself
	@for program in agent apiserver controller; do cargo build --release -p $$program; done
	@cargo run --quiet --release -p testbed --bin bench
	@cargo bench --quiet -p planner --bench plan

.PHONY: verify
verify: ## The long proofs: ten thousand rollouts and a million worlds of the planner's properties; every configuration of the model, 17 million states
	@export PROPTEST_RNG_SEED=$${PROPTEST_RNG_SEED:-$$RANDOM}; echo "PROPTEST_RNG_SEED=$$PROPTEST_RNG_SEED"; \
	PROPTEST_CASES=10000 cargo test --release -p planner --test promises properties; \
	PROPTEST_CASES=1000000 cargo test --release -p planner --test any_world
	@cargo run --quiet --release -p model

.PHONY: mutants
mutants: ## Break each guarantee on purpose and see a test fail; prints "killed N of N"
	@mutants/run.sh
