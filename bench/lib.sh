# shellcheck shell=bash
# What the benchmarks share: a throw-away server with the extension, and ratios.
# To be sourced by scripts that run under "set -euo pipefail".

# shellcheck source-path=SCRIPTDIR source=../scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

# Print the first number, or the second one where "make bench" wants the benchmarks smaller.
sized() {
	if [ "${BENCH_SIZE:-full}" = small ]; then echo "$2"; else echo "$1"; fi
}

# How often a measurement is repeated; the smallest time counts, since noise only ever adds.
REPEAT=${REPEAT:-$(sized 3 2)}

# More settings of the server, each like a line of postgresql.conf.
BENCH_SETTINGS=()

# Start a server that syncs like a real one, with the extension in database "bench".  The arguments are
# further packages that the benchmark needs.  BENCH_INSTALLED says that the extension is built and installed already.
start_bench() {
	BENCH_DIR=$(temp_dir)
	trap 'stop_cluster "$BENCH_DIR/cluster" >/dev/null 2>&1 || true; rm -rf "$BENCH_DIR"' EXIT
	install_packages "$@"
	[ -n "${BENCH_INSTALLED:-}" ] || build_and_install "$BENCH_DIR/build" >/dev/null
	start_cluster "$BENCH_DIR/cluster" "shared_buffers = 1GB" "max_wal_size = 8GB" \
		"max_locks_per_transaction = 1024" "autovacuum = off" "${BENCH_SETTINGS[@]}" >/dev/null
	"$(pg_program createdb)" bench
	export PGOPTIONS="-c client_min_messages=error"
	bench_sql "CREATE EXTENSION prod_analytics CASCADE"
	say "PostgreSQL $PG_MAJOR, $REPEAT repetitions, the fastest counts"
}

# Run SQL and print its result.
bench_sql() {
	"$(pg_program psql)" -X -q -A -t -v ON_ERROR_STOP=1 -d bench -c "$1"
}

# Print the milliseconds that a statement takes, once.
milliseconds_once() {
	"$(pg_program psql)" -X -q -A -t -v ON_ERROR_STOP=1 -d bench -c '\timing on' -c "$1" |
		sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | tail -n 1
}

# Print the milliseconds that a statement takes: the smallest of REPEAT times, each after "prepare", in a
# session of its own in which "warm up" has run.
milliseconds() {
	local prepare=$1 statement=$2 warm_up=${3:-SELECT 1} i

	for ((i = 0; i < REPEAT; i++)); do
		bench_sql "$prepare" >/dev/null
		"$(pg_program psql)" -X -q -A -t -v ON_ERROR_STOP=1 -d bench \
			-c "$warm_up" -c '\timing on' -c "$statement" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | tail -n 1
	done | sort -g | head -n 1
}

# Print the milliseconds that a statement takes: the smallest of REPEAT times, each after "settle", which the benchmark
# defines.  The other arguments are for "settle".
measure() {
	local i

	for ((i = 0; i < REPEAT; i++)); do
		settle "${@:2}"
		milliseconds_once "$1"
	done | sort -g | head -n 1
}

# Wait until a query returns true.
wait_until() {
	local attempts

	for ((attempts = 0; attempts < 1200; attempts++)); do
		[ "$(bench_sql "$1")" != t ] || return 0
		sleep 0.1
	done
	die "did not come true: $1"
}

# Print a line: what was compared, both figures and their ratio; and, for the table of "make bench", add one to the file
# BENCH_RESULTS.  $5: the unit, unless it is ms.
ratio() {
	local unit=${5:-ms}

	awk -v what="$1" -v ours="$2" -v theirs="$3" -v against="$4" -v unit="$unit" \
		'BEGIN { printf "%-60s %10.1f %s   %s %10.1f %s   ratio %.3f\n", what, ours, unit, against, theirs, unit, ours / theirs }'
	[ -z "${BENCH_RESULTS:-}" ] ||
		printf '%s\t' "$(basename "$0")" "$1" "$2" "$3" "$4" "$unit" | sed 's/\t$/\n/' >>"$BENCH_RESULTS"
}
