# Everything a contributor runs. Each target sets up what it needs in .venv; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
NEEDED := dev mcp1 fastmcp4 pgbouncer supabase caddy typescript chromium axe

.PHONY: demo test environments style types types-mcp1 floors collected screenshots matrix test-supabase soak-1 soak-2 soak-3 soak-4 soak-5 soak-6 soak-7 soak-8 soak-9 soak-10 soak-uploads check docs reference bench terminal-pictures lock format clean

demo: .venv/runtime.stamp  ## Chat, kill the server, start it again: it remembers.
	@$(BIN)/python examples/restart_demo.py

# Four processes keep two cores busy: who kills or delays something waits. `tests/longest_files.py` says which files come first.
IN_PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder

test: environments  ## All tests; those of the seams with mcp 2.x and 1.x.
	$(BIN)/python -m pytest $(IN_PARALLEL) $(PYTEST_ARGS)
	.venv/mcp1/bin/python -m pytest $(IN_PARALLEL) tests/seams/suite tests/seams/mcp_v1 tests/resources $(PYTEST_ARGS) $(if $(PYTEST_ARGS),|| test $$? -eq 5)  # 5: the arguments choose none

environments: $(NEEDED:%=.venv/%.stamp)  ## What the tests need; `make -j3 environments` fetches several at once.

screenshots: .venv/dev.stamp .venv/chromium.stamp  ## The pictures in docs/images, made anew.
	cd tests && ../$(BIN)/python -m viewer.screenshots ../docs/images

# Each is an environment of its own, with a lock in requirements/; the newest first.
SDKS := mcp1 mcp1-lowest fastmcp4

matrix: .venv/dev.stamp $(SDKS:%=.venv/%.stamp)  ## The seam suite with every SDK; its result is the table in docs/sdks.md.
	@mkdir -p .venv/seams
	-EVERY_BEHAVIOUR=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup tests/seams/suite --junitxml=.venv/seams/dev.xml
	-for sdk in $(SDKS); do EVERY_BEHAVIOUR=1 .venv/$$sdk/bin/python -m pytest -q -n 2 --dist loadgroup tests/seams/suite --junitxml=.venv/seams/$$sdk.xml; done
	.venv/fastmcp4/bin/python -m pytest -q -n 2 tests/seams/fastmcp_v4
	cd tests && ../$(BIN)/python -m seams.matrix $(patsubst %,../.venv/seams/%.xml,dev $(SDKS))

test-supabase: .venv/dev.stamp  ## The contracts on a real project: SUPABASE_URL, SUPABASE_KEY, SUPABASE_ANON_KEY, SUPABASE_DB_URL.
	@test -n "$$SUPABASE_URL" -a -n "$$SUPABASE_KEY" -a -n "$$SUPABASE_ANON_KEY" -a -n "$$SUPABASE_DB_URL" || { echo "Set SUPABASE_URL, SUPABASE_KEY, SUPABASE_ANON_KEY and SUPABASE_DB_URL to those of a project for tests: it is migrated, and written to."; exit 1; }
	PERDURE_DATABASE_URL="$$SUPABASE_DB_URL" $(BIN)/perdure migrate
	REAL_SUPABASE=1 $(BIN)/python -m pytest tests/contracts/test_supabase_stores.py $(PYTEST_ARGS)

soak-1: .venv/dev.stamp  ## 1,000 kills of processes that share a spool, while Postgres is killed. About 25 minutes. Goes on where it was interrupted, in .soak.
	$(BIN)/python tests/soak/spool_kills.py --kills 1000

soak-2: .venv/dev.stamp  ## 1,000 power losses of the SQLite store, and of the spool. About 2 minutes. Goes on where it was interrupted, in .soak.
	$(BIN)/python tests/soak/power_losses.py store --losses 1000
	$(BIN)/python tests/soak/power_losses.py spool --losses 1000

soak-3: .venv/dev.stamp  ## The store away for 10 minutes under load: refused, then hung. About half an hour.
	$(BIN)/python tests/soak/outage.py --seconds 600

soak-4: .venv/dev.stamp  ## 64 writers, 16,000 turns on one conversation; then with replies lost after the commit. About 4 minutes.
	$(BIN)/python tests/soak/postgres_writers.py --processes 4 --threads 16 --turns 250
	$(BIN)/python tests/soak/postgres_writers.py --processes 4 --threads 16 --turns 250 --cut 0.05

soak-5: .venv/dev.stamp  ## A fault at every boundary, of three kinds. About half an hour.
	$(BIN)/python tests/soak/every_boundary.py

soak-6: .venv/dev.stamp  ## What a store that hangs adds to a call. About 6 minutes.
	$(BIN)/python tests/soak/hung_store.py --rounds 100

soak-7: .venv/dev.stamp  ## Each store against the one in memory: 5,000 examples of 50 steps on SQLite, 500 on the others. Hours.
	$(BIN)/python tests/soak/store_model.py sqlite --examples 5000
	$(BIN)/python tests/soak/store_model.py postgres --examples 500
	$(BIN)/python tests/soak/store_model.py supabase --examples 500

soak-8: .venv/dev.stamp  ## 10,000,000 inputs to the path finder, and 100,000 swaps of names for links. Hours.
	$(BIN)/python tests/soak/path_inputs.py --inputs 10000000
	$(BIN)/python tests/soak/link_swaps.py --swaps 100000

soak-9: .venv/dev.stamp  ## Three servers behind a load balancer, killed again and again, by both protocols. About 15 minutes.
	$(BIN)/python tests/soak/replicas.py --kills 100 --protocol stateless
	$(BIN)/python tests/soak/replicas.py --kills 100 --protocol sessions

soak-10: .venv/dev.stamp  ## Breaks the modules for paths, principals, the spool and redaction in every small way; tests must notice 90 %.
	$(BIN)/python tests/soak/mutants.py

soak-uploads: .venv/dev.stamp  ## 100 uploads of 50 MB, killed and gone on with. About 4 minutes.
	$(BIN)/python tests/soak/upload_kills.py --kills 100 --size 50MB
	$(BIN)/python tests/soak/supabase_replies.py

check: style collected types docs types-mcp1 floors  ## Style, types, floors, the site. `make -j2 check` takes half the time.

style: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy

# With a cache of its own, since the same names are other modules there.
types-mcp1: .venv/dev.stamp .venv/mcp1.stamp
	$(BIN)/mypy --cache-dir .mypy_cache/mcp1 --python-executable .venv/mcp1/bin/python --follow-imports silent src/perdure/middleware/sdk/__init__.py src/perdure/middleware/sdk/mcp_v1.py src/perdure/middleware/sdk/mcp_v1_listing.py src/perdure/middleware/server_hook/mcp_v1.py src/perdure/middleware/server_hook/mcp_v1_conversations.py

floors: .venv/dev.stamp
	$(BIN)/lint-imports --no-cache

# Every test can be imported. pytest keeps what it has made of their code, or each of its processes would make it anew.
collected: .venv/dev.stamp
	$(BIN)/python -m pytest --collect-only -qq > .venv/collected.txt || { tail -50 .venv/collected.txt; exit 1; }

docs: .venv/dev.stamp  ## The site, in docs/_build/html. A link or an anchor that leads nowhere is an error.
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html

reference: .venv/dev.stamp  ## Writes docs/reference anew, from the code.
	$(BIN)/python -m tools.reference

# Whom `make bench` stands perdure beside. Each is an environment of its own, with a lock in requirements/peer-*.txt.
PEERS := openai-agents langgraph google-adk mcp-persist supabase-strands

bench: .venv/dev.stamp $(PEERS:%=.venv/peers/%.stamp)  ## What perdure costs, beside its peers and the physical limit in one run. BENCH_ARGS="--quick" for a look.
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

terminal-pictures: .venv/dev.stamp  ## What commands look like in a terminal, for the documentation: docs/images/*.svg.
	$(BIN)/python -m tools.terminal_pictures

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Locks hold hashes and no addresses, so they serve behind any index.
lock: .venv/dev.stamp
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --python-version 3.11 --upgrade pyproject.toml --group build -o requirements/runtime.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --python-version 3.11 --all-extras -c requirements/runtime.txt pyproject.toml --group dev -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --python-version 3.11 --extra postgres -c requirements/dev.txt pyproject.toml --group build -o requirements/server.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --python-version 3.11 --upgrade pyproject.toml --group mcp1 -o requirements/mcp1.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --python-version 3.11 --upgrade --resolution lowest-direct pyproject.toml --group mcp1 -o requirements/mcp1-lowest.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --python-version 3.11 -c requirements/dev.txt pyproject.toml --group fastmcp4 -o requirements/fastmcp4.txt
	for peer in $(PEERS); do $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --python-version 3.11 --upgrade --group peer-$$peer -o requirements/peer-$$peer.txt || exit 1; done
	cd tests/servers && npm install --package-lock-only --omit-lockfile-registry-resolved=true --no-audit --no-fund
	cd tests/viewer/axe && npm install --package-lock-only --omit-lockfile-registry-resolved=true --no-audit --no-fund
	cd tests/proxy/typescript && npm install --package-lock-only --omit-lockfile-registry-resolved=true --no-audit --no-fund

.venv/runtime.stamp: requirements/runtime.txt pyproject.toml
	@test -x $(BIN)/python || { echo "Making .venv (the first time takes about a minute) ..."; $(PYTHON) -m venv .venv; }
	@$(PIP) install -q --require-hashes -r requirements/runtime.txt
	@$(PIP) install -q -e . --no-deps --no-build-isolation
	@touch $@

.venv/dev.stamp: requirements/dev.txt .venv/runtime.stamp
	@$(PIP) install -q --require-hashes -r requirements/dev.txt
	@touch $@

# --no-deps: a lock has all of them, and pip knows no hash for what an extra such as httpx[http2] asks for.
$(SDKS:%=.venv/%.stamp): .venv/%.stamp: requirements/%.txt pyproject.toml .venv/runtime.stamp
	@test -x .venv/$*/bin/python || $(PYTHON) -m venv .venv/$*
	@.venv/$*/bin/python -m pip --disable-pip-version-check --no-input install -q --no-deps --require-hashes -r $<
	@.venv/$*/bin/python -m pip --disable-pip-version-check --no-input install -q -e . --no-deps --no-build-isolation
	@.venv/$*/bin/python -m pip --disable-pip-version-check check
	@touch $@

$(PEERS:%=.venv/peers/%.stamp): .venv/peers/%.stamp: requirements/peer-%.txt .venv/runtime.stamp
	@test -x .venv/peers/$*/bin/python || $(PYTHON) -m venv .venv/peers/$*
	@.venv/peers/$*/bin/python -m pip --disable-pip-version-check --no-input install -q --no-deps --require-hashes -r $<
	@touch $@

# Debian's PgBouncer, unpacked here: nothing on the machine changes.
.venv/pgbouncer.stamp: tests/servers/fetch_pgbouncer.sh tests/servers/debian_packages.sh .venv/dev.stamp
	@rm -rf .venv/pgbouncer
	@sh $< .venv/pgbouncer
	@touch $@

# Debian's Caddy, which stands before Supabase in docker-compose.yml.
.venv/caddy.stamp: tests/docker/fetch_caddy.sh tests/servers/debian_packages.sh .venv/dev.stamp
	@rm -rf .venv/caddy
	@sh $< .venv/caddy
	@touch $@

# The command line of Supabase, as npm has it. The copy keeps npm from writing to our lock.
.venv/supabase.stamp: tests/servers/package.json tests/servers/package-lock.json .venv/dev.stamp
	@mkdir -p .venv/supabase
	@cp tests/servers/package.json tests/servers/package-lock.json .venv/supabase/
	@npm install --prefix .venv/supabase --no-audit --no-fund --ignore-scripts --loglevel error
	@touch $@

# A server in TypeScript, the SDK's own example, for the proxy.
.venv/typescript.stamp: tests/proxy/typescript/package.json tests/proxy/typescript/package-lock.json .venv/dev.stamp
	@mkdir -p .venv/typescript
	@cp tests/proxy/typescript/package.json tests/proxy/typescript/package-lock.json .venv/typescript/
	@npm install --prefix .venv/typescript --no-audit --no-fund --ignore-scripts --loglevel error
	@touch $@

# Debian's Chromium, for the tests of the viewer.
.venv/chromium.stamp: tests/viewer/fetch_chromium.sh tests/servers/debian_packages.sh .venv/dev.stamp
	@rm -rf .venv/chromium
	@sh $< .venv/chromium
	@touch $@

# Looks for what keeps people from using a page.
.venv/axe.stamp: tests/viewer/axe/package.json tests/viewer/axe/package-lock.json .venv/dev.stamp
	@mkdir -p .venv/axe
	@cp tests/viewer/axe/package.json tests/viewer/axe/package-lock.json .venv/axe/
	@npm install --prefix .venv/axe --no-audit --no-fund --ignore-scripts --loglevel error
	@touch $@

clean:
	rm -rf .venv .demo .soak mutants dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
