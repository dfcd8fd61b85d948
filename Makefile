# prod_analytics: PGXS build.
#
#   make demo [DATA=file.csv ...]   see it work, on a machine that has nothing installed
#   make test                       install what is needed, build, run every suite
#   make fuzz [RUNS=n] [SEED=n]     fuzz the JSON Schema validator
#   make lint                       cppcheck, clang-tidy, shellcheck
#   make sanitize                   the suites with AddressSanitizer, UndefinedBehaviorSanitizer and assertions
#   make valgrind                   the regression tests under valgrind
#   make bench [BENCH="a b"]        measure, and print one table of ratios
#   make soak [MINUTES=n] [SEED=n]  everything at once, with kills, and what has to hold afterwards
#   make && make install            build and install by hand
#   make installcheck               the suites against a running server

EXTENSION = prod_analytics
MODULE_big = prod_analytics

# The version is written in the control file and nowhere else; META.json repeats it because PGXN
# wants it there, and "make check-version" compares.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" prod_analytics.control)

OBJS = \
	src/prod_analytics.o \
	src/backfill.o \
	src/backfill_check.o \
	src/day_set.o \
	src/funnel.o \
	src/funnel_count.o \
	src/funnel_state.o \
	src/funnel_users.o \
	src/guard.o \
	src/hierarchy.o \
	src/housekeeping.o \
	src/ingest.o \
	src/ingest_check.o \
	src/ingest_dedupe.o \
	src/ingest_insert.o \
	src/job.o \
	src/partition.o \
	src/partition_bounds.o \
	src/partition_drain.o \
	src/partition_expire.o \
	src/partition_lock.o \
	src/partition_plan.o \
	src/partition_policy.o \
	src/partition_sql.o \
	src/plan.o \
	src/quality.o \
	src/query.o \
	src/redrive.o \
	src/refresh.o \
	src/refresh_archive.o \
	src/refresh_capture.o \
	src/refresh_changes.o \
	src/refresh_check.o \
	src/refresh_compare.o \
	src/refresh_compute.o \
	src/refresh_expression.o \
	src/refresh_index.o \
	src/refresh_key.o \
	src/refresh_log.o \
	src/refresh_mark.o \
	src/refresh_merge.o \
	src/refresh_order.o \
	src/refresh_register.o \
	src/refresh_source.o \
	src/refresh_sql.o \
	src/refresh_total.o \
	src/refresh_trigger.o \
	src/refresh_verify.o \
	src/refresh_view.o \
	src/refresh_window.o \
	src/registry.o \
	src/schedule.o \
	src/settings.o \
	src/tables.o \
	src/users.o \
	src/validation.o \
	src/validation_address.o \
	src/validation_charset.o \
	src/validation_check.o \
	src/validation_compile.o \
	src/validation_dfa.o \
	src/validation_ecma.o \
	src/validation_ecma_class.o \
	src/validation_ecma_write.o \
	src/validation_eval.o \
	src/validation_event.o \
	src/validation_format.o \
	src/validation_identify.o \
	src/validation_idna.o \
	src/validation_regex.o \
	src/validation_register.o \
	src/validation_uri.o \
	src/validation_value.o \
	src/window_funnel.o \
	src/worker.o \
	src/worker_advice.o \
	src/worker_command.o \
	src/worker_jobs.o \
	src/worker_record.o \
	src/worker_room.o \
	src/worker_run.o \
	src/worker_runner.o \
	src/worker_scheduler.o \
	src/worker_state.o

# The parts of the extension's script in the order in which they run: what a part uses stands
# above it, and privileges come last because they speak of every function.
SQL_PARTS = \
	sql/parts/schema.sql \
	sql/parts/roles.sql \
	sql/parts/registry.sql \
	sql/parts/tables.sql \
	sql/parts/job.sql \
	sql/parts/partition.sql \
	sql/parts/range.sql \
	sql/parts/validation.sql \
	sql/parts/ingest.sql \
	sql/parts/users.sql \
	sql/parts/redrive.sql \
	sql/parts/backfill.sql \
	sql/parts/refresh.sql \
	sql/parts/funnel.sql \
	sql/parts/active_users.sql \
	sql/parts/retention.sql \
	sql/parts/approximate.sql \
	sql/parts/hierarchy.sql \
	sql/parts/search.sql \
	sql/parts/joins.sql \
	sql/parts/plan.sql \
	sql/parts/quality.sql \
	sql/parts/worker.sql \
	sql/parts/housekeeping.sql \
	sql/parts/observability.sql \
	sql/parts/sample.sql \
	sql/parts/privileges.sql \
	sql/parts/install.sql

# The scripts of the versions that were released stay as they were.  That of each also tells, in sql/updates, which
# functions are no more, or have another signature or result: the rest of an update is made of the parts.
VERSIONS = $(patsubst sql/versions/prod_analytics--%.sql,%,$(wildcard sql/versions/*.sql))
UPDATES = $(foreach version,$(VERSIONS),sql/prod_analytics--$(version)--$(EXTVERSION).sql)

DATA_built = sql/prod_analytics--$(EXTVERSION).sql $(UPDATES)

# On PostgreSQL 15 isolation tests look for their expected files in output_iso unless told.
REGRESS = settings schedule worker housekeeping quality observability plan tables adoption attacks partition partition_policy partition_upkeep ingest users redrive backfill metrics \
	refresh_view refresh_archive refresh_verify refresh_register refresh_stale refresh_capture validation validation_pattern \
	validation_format validation_event funnel active_users retention hierarchy search joins script sample roles comments
REGRESS_OPTS = --inputdir=test --outputdir=.
ISOLATION = ingest_once erase_user ingest_partitions ensure_concurrently manage_partitions partition_locks event_schemas backfill_locks \
	refresh_locks refresh_writers refresh_ddl refresh_expire
ISOLATION_OPTS = --inputdir=test --outputdir=.
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers
EXTRA_CLEAN = sql/prod_analytics--*.sql log tmp_check results output_iso

PG_CONFIG ?= pg_config

# The commands that set a machine up come first: they work where PGXS is not installed yet.
ifneq ($(filter demo test lint sanitize valgrind fuzz soak bench check-version,$(MAKECMDGOALS)),)

.PHONY: demo test lint sanitize valgrind fuzz soak bench check-version
# A relative DATA is relative to where make was called, also with make -C.
demo: export CALLED_FROM = $(PWD)
demo:
	@scripts/demo
test: check-version
	@scripts/test
fuzz:
	@scripts/fuzz
lint:
	@scripts/lint
sanitize:
	@scripts/sanitize asan
valgrind:
	@scripts/sanitize valgrind
bench:
	@scripts/bench
soak:
	@scripts/soak
check-version:
	@scripts/check_version "$(EXTVERSION)"

else

# Not what the demo calls DATA.
DATA = $(wildcard sql/versions/*.sql)

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

sql/prod_analytics--$(EXTVERSION).sql: $(SQL_PARTS) sql/parts/end_install.sql prod_analytics.control Makefile
	(printf '%s\n\n' '\echo Use "CREATE EXTENSION prod_analytics CASCADE" to load this file. \quit'; cat $(SQL_PARTS) sql/parts/end_install.sql) > $@

# The first part makes sure that the schema is ours; before it nothing else may run.
sql/prod_analytics--%--$(EXTVERSION).sql: sql/updates/%.sql $(SQL_PARTS) sql/parts/end_update.sql prod_analytics.control Makefile
	(printf '%s\n\n' '\echo Use "ALTER EXTENSION prod_analytics UPDATE" to load this file. \quit'; \
		sed 's/^CREATE \(AGGREGATE\|FUNCTION\|PROCEDURE\) /CREATE OR REPLACE \1 /' $(firstword $(SQL_PARTS)); \
		cat sql/updates/$*.sql; \
		cat $(wordlist 2,99,$(SQL_PARTS)) | sed 's/^CREATE \(AGGREGATE\|FUNCTION\|PROCEDURE\) /CREATE OR REPLACE \1 /'; \
		cat sql/parts/end_update.sql) > $@

$(OBJS): $(wildcard src/*.h)

endif
