# Targets are named as CI calls them; `make help` explains them.

SHELL := /bin/bash
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(CURDIR)/.run

PACKAGES := fuse3 libfuse3-dev pkg-config gcc libc6-dev python3-dev python3-venv \
	libcephfs-dev librados-dev python3-cephfs python3-rados
TEST_PACKAGES := ceph-mon ceph-mgr ceph-osd ceph-mds ceph-fuse ceph-common acl attr git bindfs

# Tests wait more than they work, so three processes share them. What counts what servers do, fills
# or fails them, or shuts clients out, comes last and alone; before it, some of the mounts once more with
# the lane on.
PYTEST := $(BIN)/python -m pytest -m "not soak and not faults" --durations=15
STORMY := $(patsubst %,tests/ceph/test_%.py,ranks full members failover eviction)
CALM = $(filter-out $(STORMY),$(wildcard tests/ceph/test_*.py))
SLOW := $(patsubst %,tests/mount/test_%.py,hold jobs limit pending policy pressure tree)
LANE := $(patsubst %,tests/mount/test_%.py,semantics listing frozen truncate links node_limit pending)
MOUNT = $(filter-out $(SLOW),$(wildcard tests/mount/test_*.py))

.DEFAULT_GOAL := help
.PHONY: help deps deps-test venv run stop run-ceph test check fmt lock bench soak faults \
	ceph-up ceph-down ceph-status clean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# installs what is missing of a list of Debian packages
define install
	@missing=; for p in $(1); do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "installing:$$missing"; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@[ -e /dev/fuse ] || { echo "making /dev/fuse"; $(SUDO) mknod -m 666 /dev/fuse c 10 229; }
endef

deps: ## install the system packages that a gateway needs
	$(call install,$(PACKAGES))

deps-test: ## install the system packages that the tests need, Ceph among them
	$(call install,$(PACKAGES) $(TEST_PACKAGES))

venv: deps $(VENV)/.installed ## build .venv with cephfs-ext in it

$(VENV)/.installed: requirements.lock pyproject.toml setup.py $(wildcard c_ext/*_build.py c_ext/lane/*.[ch])
	@echo "building $(VENV)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --system-site-packages $(VENV)
	@$(BIN)/python -m pip install -q --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

run: venv ## mount a gateway over a local directory and play the tour
	@$(SUDO) $(BIN)/python -m tests.tour posix $(RUN)

run-ceph: ceph-up ## the same on a CephFS of its own
	@$(SUDO) $(BIN)/python -m tests.tour ceph $(RUN)

stop: ## unmount what run and run-ceph have mounted
	@$(SUDO) $(BIN)/python -m tests.tour stop $(RUN)

check: deps-test venv ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: deps-test venv ## all tests, on both storages, with a cluster of their own
	@$(SUDO) $(BIN)/python -m tests.cluster up
	@mkdir -p build; rm -f build/test-*.log; touch build/test-rest.log; \
		$(SUDO) $(PYTEST) $(MOUNT) $(CALM) tests/faults >build/test-mount.log 2>&1 & mount=$$!; \
		$(SUDO) $(PYTEST) $(SLOW) >build/test-slow.log 2>&1 & slow=$$!; \
		$(SUDO) $(PYTEST) $(patsubst %,--ignore=tests/%,mount ceph faults) >build/test-rest.log 2>&1 & rest=$$!; \
		tail -n +1 -f --pid=$$rest build/test-rest.log; \
		code=0; for part in $$mount $$slow $$rest; do wait $$part || code=1; done; \
		cat build/test-mount.log build/test-slow.log; $(SUDO) $(BIN)/python -m tests.cluster status; \
		$(SUDO) env CEPHFS_EXT_MOUNT_LANE=auto $(PYTEST) -k ceph $(LANE) || code=1; \
		$(SUDO) $(PYTEST) $(STORMY) || code=1; \
		$(SUDO) $(BIN)/python -m tests.cluster down; \
		grep -hE '^(E  |FAILED|ERROR)' build/test-*.log | tail -n 60; exit $$code

soak: deps-test venv ## the slow tests: minutes, or SOAK_S seconds each
	@$(SUDO) $(BIN)/python -m tests.cluster up
	@$(SUDO) env SOAK_S=$(SOAK_S) $(BIN)/python -m pytest -m soak --timeout=3600; code=$$?; \
		$(SUDO) $(BIN)/python -m tests.cluster down; exit $$code

faults: deps-test venv ## tests that kill daemons at random, 50 rounds each
	@$(SUDO) $(BIN)/python -m tests.cluster up
	@$(SUDO) $(BIN)/python -m pytest -m faults --timeout=3600; code=$$?; \
		$(SUDO) $(BIN)/python -m tests.cluster down; exit $$code

bench: deps-test venv ## gateway and ceph-fuse side by side; prints ratios, writes bench/results
	@$(SUDO) $(BIN)/python -m tests.cluster up
	@$(SUDO) $(BIN)/python -m bench; code=$$?; \
		$(SUDO) $(BIN)/python -m tests.cluster down; exit $$code

ceph-up: deps-test venv ## start the cluster for work by hand
	@$(SUDO) $(BIN)/python -m tests.cluster up

ceph-down: ## stop it
	@$(SUDO) $(BIN)/python -m tests.cluster down

ceph-status: ## say whether it runs
	@$(SUDO) $(BIN)/python -m tests.cluster status

fmt: venv ## format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: venv ## renew requirements.lock: versions and hashes, no addresses
	@UV_NO_CONFIG=1 $(BIN)/uv pip compile -q --generate-hashes --no-header --no-annotate \
		--extra dev --python-version 3.11 pyproject.toml -o requirements.lock

clean: ## remove what was built
	rm -rf $(VENV) build *.egg-info c_ext/*.so c_ext/*.o c_ext/_posix.c c_ext/_libcephfs.c c_ext/_lane.c
