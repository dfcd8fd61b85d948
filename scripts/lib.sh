# shellcheck shell=bash
# Functions that scripts/test, scripts/demo and .ci share: find or install PostgreSQL, build, and run
# a throw-away server.  To be sourced by scripts that run under "set -euo pipefail".
#
# The machine's own PostgreSQL is left alone: no cluster of it is created, started or connected to.
# The two things that stay behind are Debian packages and the installed extension.

# A failure inside $(...) is a failure.
shopt -s inherit_errexit

# The root of the source tree.
SOURCE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The oldest PostgreSQL that the extension supports.
OLDEST_MAJOR=15

# "make test" would hand its options and its job server on to the makes that we start.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES


# ---- messages --------------------------------------------------------------------------------

say() {
	printf '== %s\n' "$*"
}

die() {
	printf '== error: %s\n' "$*" >&2
	exit 1
}

# Run a command whose output matters only when it fails.
quietly() {
	local log status=0

	log=$(mktemp)
	"$@" >"$log" 2>&1 </dev/null || status=$?
	[ "$status" -eq 0 ] || cat "$log" >&2
	rm -f "$log"
	return "$status"
}


# ---- accounts --------------------------------------------------------------------------------

is_root() {
	[ "$(id -u)" -eq 0 ]
}

as_root() {
	if is_root; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -- "$@"
	else
		die "\"$*\" needs root: run this as root, or install sudo"
	fi
}

# The account that PostgreSQL runs as, because it refuses to run as root.
unprivileged_user() {
	if ! is_root; then
		id -un
	elif getent passwd postgres >/dev/null; then
		echo postgres
	else
		die "there is no account \"postgres\" for the server to run as; run this as an ordinary user"
	fi
}

# Run a command as that account, in the current directory (which the account must be able to enter).
# Only the variables that are meant for PostgreSQL (COPT is its makefiles' "more compiler options"), for
# us or for the sanitizers get through: root's HOME, TMPDIR and the like are of no use to another account.
as_server_user() {
	local user name
	local -a environment=()

	user=$(unprivileged_user) || return
	for name in $(compgen -e); do
		case $name in
			PATH | TERM | COPT | PG* | PROD_ANALYTICS_* | ASAN_OPTIONS | UBSAN_OPTIONS) environment+=("$name=${!name}") ;;
		esac
	done
	environment+=("USER=$user" "LOGNAME=$user" "LANG=C.UTF-8")

	if is_root; then
		environment+=("HOME=$(getent passwd "$user" | cut -d: -f6)")
		runuser -u "$user" -- env -i "${environment[@]}" "$@"
	else
		env -i "${environment[@]}" "HOME=$HOME" "$@"
	fi
}

# Make a new temporary directory that belongs to that account, and print its name.
temp_dir() {
	local dir parent=${TMPDIR:-/tmp}

	# root's own TMPDIR can be closed to others
	is_root && parent=/tmp
	dir=$(mktemp -d "$parent/prod_analytics.XXXXXX")
	if is_root; then
		chown "$(unprivileged_user):" "$dir"
	fi
	printf '%s\n' "$dir"
}


# ---- PostgreSQL and the packages -------------------------------------------------------------

# Succeed if the pg_config given belongs to a supported PostgreSQL with the files that PGXS needs.
can_build_extensions() {
	[ -x "$1" ] && [ -f "$("$1" --pgxs)" ] && [ "$(major_version "$1")" -ge "$OLDEST_MAJOR" ]
}

# Print the major version that a program of PostgreSQL tells: "PostgreSQL 15.3", "... (PostgreSQL) 18beta1".
major_version() {
	"$1" --version | sed -n 's/^[^0-9]*\([0-9][0-9]*\).*/\1/p'
}

# Set and export PG_CONFIG and PG_MAJOR: what the environment says, else the newest of Debian's.  Both
# are empty when there is none.  A PG_CONFIG of the form /usr/lib/postgresql/NN/bin/pg_config may name
# a version that is yet to be installed: that is how to choose one.
find_postgres() {
	local candidate

	PG_CONFIG=${PG_CONFIG:-}
	PG_MAJOR=
	if [ -z "$PG_CONFIG" ]; then
		export -n PG_CONFIG
		for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -rV); do
			if can_build_extensions "$candidate"; then
				PG_CONFIG=$candidate
				break
			fi
		done
		[ -n "$PG_CONFIG" ] || return 0
	fi

	if [[ $PG_CONFIG =~ ^/usr/lib/postgresql/([0-9]+)/bin/pg_config$ ]]; then
		PG_MAJOR=${BASH_REMATCH[1]}
	else
		PG_CONFIG=$(command -v "$PG_CONFIG") || die "PG_CONFIG is set, but there is no such program"
		PG_MAJOR=$(major_version "$PG_CONFIG")
	fi
	[ "$PG_MAJOR" -ge "$OLDEST_MAJOR" ] ||
		die "PostgreSQL $PG_MAJOR is too old: $OLDEST_MAJOR or newer is needed"
	export PG_CONFIG PG_MAJOR
}

# Print where a program of the PostgreSQL found is: Debian keeps most of them out of PATH.
pg_program() {
	printf '%s/%s\n' "$("$PG_CONFIG" --bindir)" "$1"
}

package_installed() {
	[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

apt_get() {
	as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
		apt-get -qq -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@"
}

# Fetch the package lists, once.  A foreign repository that does not answer is no reason to stop:
# whether the packages can be had, "apt-get install" will tell.
refresh_package_lists() {
	[ -z "${package_lists_fresh:-}" ] || return 0
	say "fetching the package lists"
	quietly apt_get update || say "apt-get update failed; going on with the lists that are here"
	package_lists_fresh=yes
}

# Write standard input to a file as root.
write_as_root() {
	as_root tee "$1" >/dev/null
}

# Install packages without any effect on the machine's database servers.
#
# Debian's server package makes a cluster "main" and starts it, along with every other cluster that
# happens to be stopped.  Two hooks that Debian has for this purpose prevent it, and are there only
# while apt-get runs: a file in createcluster.d, and policy-rc.d (see invoke-rc.d(8)).
#
# The body is a subshell, so that the trap is its own.
apt_install() (
	conf=/etc/postgresql-common/createcluster.conf
	conf_dir=/etc/postgresql-common/createcluster.d
	hook=$conf_dir/zz_prod_analytics.conf
	policy=/usr/sbin/policy-rc.d
	added=()

	trap '[ "${#added[@]}" -eq 0 ] || as_root rm -f "${added[@]}"' EXIT
	trap 'exit 130' INT TERM

	if [ -e "$conf" ] && ! grep -q "^include_dir.*$conf_dir" "$conf"; then
		die "$conf does not include $conf_dir, so that installing a server would create a cluster;" \
			"install \"$*\" by hand"
	fi
	as_root mkdir -p "$conf_dir"
	added+=("$hook")
	write_as_root "$hook" <<<"create_main_cluster = off"
	if [ ! -e "$policy" ]; then
		added+=("$policy")
		printf '#!/bin/sh\nexit 101\n' | write_as_root "$policy"
		as_root chmod 755 "$policy"
	fi

	say "installing $* (this can take some minutes)"
	quietly apt_get install --no-install-recommends "$@" || die "could not install $*"
)

# Install what is missing of the packages named.  Needs no network when nothing is.
ensure_packages() {
	local package
	local -a missing=()

	for package in "$@"; do
		package_installed "$package" || missing+=("$package")
	done
	[ "${#missing[@]}" -gt 0 ] || return 0
	refresh_package_lists
	apt_install "${missing[@]}"
}

# Choose the PostgreSQL to install: the version of the newest server that is there without its headers,
# else the one that the distribution has.
choose_postgres() {
	local server

	for server in $(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V); do
		if [ -x "$server" ] && [ "$(major_version "$server")" -ge "$OLDEST_MAJOR" ]; then
			PG_CONFIG=${server%/postgres}/pg_config
		fi
	done
	if [ -z "$PG_CONFIG" ]; then
		refresh_package_lists
		PG_MAJOR=$(apt-cache depends postgresql |
			sed -n 's/^ *Depends: postgresql-\([0-9][0-9]*\)$/\1/p')
		[ -n "$PG_MAJOR" ] || die "apt-get does not know which PostgreSQL this distribution has"
		PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
	fi
	find_postgres
}

# On a system without apt-get nothing is installed, only looked for.
require_programs() {
	local program
	local -a missing=()

	[ -n "$PG_CONFIG" ] || PG_CONFIG=$(command -v pg_config) || missing+=("pg_config")
	for program in cc make perl prove; do
		command -v "$program" >/dev/null || missing+=("$program")
	done
	[ "${#missing[@]}" -eq 0 ] ||
		die "there is no apt-get to install packages with, and these programs are missing:" \
			"${missing[*]} (PostgreSQL with its server headers, a C compiler, make and perl are needed)"
	find_postgres
}

# Install PostgreSQL with headers, a C compiler, make, and the extra packages given.  Afterwards
# PG_CONFIG and PG_MAJOR are set.
install_packages() {
	local -a wanted=(gcc make libc6-dev)

	find_postgres
	if command -v apt-get >/dev/null; then
		[ -n "$PG_CONFIG" ] || choose_postgres
		if [[ $PG_CONFIG = /usr/lib/postgresql/* ]]; then
			wanted+=("postgresql-$PG_MAJOR" "postgresql-server-dev-$PG_MAJOR")
		fi
		ensure_packages "${wanted[@]}" "$@"
	else
		require_programs
	fi
	can_build_extensions "$PG_CONFIG" || die "$PG_CONFIG lacks the files for building extensions (PGXS)"
}

# Install also what only the tests need.
install_test_packages() {
	local extension package

	install_packages libipc-run-perl libtext-csv-xs-perl pgbouncer
	command -v apt-get >/dev/null || return 0
	for extension in hll partman cron; do
		package=postgresql-$PG_MAJOR-$extension
		if package_installed "$package" || apt-cache show "$package" >/dev/null 2>&1; then
			ensure_packages "$package"
		else
			say "there is no package $package: tests that need it will say so"
		fi
	done
}


# ---- building --------------------------------------------------------------------------------

# Copy the source tree to a new directory that belongs to the server's account.  What git ignores
# stays behind: object files of another PostgreSQL version would be taken for up to date.
copy_source() {
	local target=$1 list file

	mkdir -p "$target"
	list=$(mktemp)
	if (cd "$SOURCE_DIR" && git -c safe.directory='*' ls-files -z --cached --others \
		--exclude-standard) >"$list" 2>/dev/null && grep -qzx Makefile "$list"; then
		# a file that was deleted but not yet committed is still listed
		while IFS= read -r -d '' file; do
			[ ! -e "$SOURCE_DIR/$file" ] || printf '%s\0' "$file"
		done <"$list" | tar -C "$SOURCE_DIR" --null --files-from=- -cf -
	else
		tar -C "$SOURCE_DIR" --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
			--exclude='./sql/prod_analytics--*.sql' --exclude=./tmp_check -cf - .
	fi | tar -C "$target" --no-same-owner -xf -
	rm -f "$list"
	if is_root; then
		chown -R "$(unprivileged_user):" "$target"
	fi
}

# Run make in the current directory the way all of ours are run: as the first argument says, and without
# bitcode for the JIT compiler, which would need the very clang that PostgreSQL was built with.
extension_make() {
	"$1" make --silent PG_CONFIG="$PG_CONFIG" with_llvm=no "${@:2}"
}

# Run a command as root, except where the caller may write to PostgreSQL's directories anyway (a
# PostgreSQL in somebody's home directory).
as_installer() {
	if [ -w "$("$PG_CONFIG" --pkglibdir)" ] && [ -w "$("$PG_CONFIG" --sharedir)/extension" ]; then
		"$@"
	else
		as_root "$@"
	fi
}

# Build the extension in a copy of the source tree, and install it.  Of the build one sees what the
# compiler has to say, which should be nothing.
build_and_install() {
	local work=$1

	copy_source "$work"
	say "building for PostgreSQL $PG_MAJOR ($PG_CONFIG)"
	(cd "$work" && extension_make as_server_user --jobs="$(nproc)" all) ||
		die "the build failed, see the compiler's messages above"
	say "installing the extension"
	(cd "$work" && extension_make as_installer install >/dev/null) || die "\"make install\" failed"
}


# ---- a throw-away server ---------------------------------------------------------------------

# Print a port that nobody listens on.  Not PostgreSQL's usual one: a client that forgets PGHOST must
# fail, and not end up in the machine's own server.
free_port() {
	local port

	for port in {54321..54399}; do
		if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
	die "no free port between 54321 and 54399"
}

# Drop libpq's variables (PGSERVICE, PGHOSTADDR, ...), which could lead a client to another server.
# PG_CONFIG and its like, with an underscore, are none of libpq's.
forget_other_servers() {
	local name

	for name in $(compgen -e PG); do
		[[ $name = PG_* ]] || unset "$name"
	done
}

# Make a directory for a server, closed to others, and print its absolute name.
server_dir() {
	mkdir -p "$1"
	chmod 700 "$1"
	if is_root; then
		chown "$(unprivileged_user):" "$1"
	fi
	realpath "$1"
}

# Print the directory for the socket of the server in the directory given: that one, unless the
# path would be longer than the 107 bytes that a socket's address has room for.
socket_dir() {
	local dir=$1 path=$1/.s.PGSQL.54321

	if [ "${#path}" -gt 107 ]; then
		dir=$(temp_dir)
		ln -s "$dir" "$1/socket"
	fi
	printf '%s\n' "$dir"
}

# Create a server in a directory of "server_dir", and do not start it.
create_cluster() {
	local dir=$1 locale=C.UTF-8

	locale -a 2>/dev/null | grep -i '^C\.utf-\?8$' >/dev/null || locale=C
	(cd "$dir" && quietly as_server_user "$(pg_program initdb)" --pgdata="$dir/data" --no-sync \
		--username=postgres --auth-local=trust --auth-host=reject --encoding=UTF8 \
		--locale="$locale") || die "initdb failed"
}

# Create a server in a directory and start it; the other arguments are lines for postgresql.conf.
# Exports PGHOST, PGPORT and PGUSER, which lead any client to it.  It listens on a socket in a
# directory closed to others, hence no password.
start_cluster() {
	local dir

	dir=$(server_dir "$1")
	shift
	forget_other_servers
	PGHOST=$(socket_dir "$dir")
	PGPORT=$(free_port)
	PGUSER=postgres
	export PGHOST PGPORT PGUSER

	create_cluster "$dir"
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$PGHOST'" "port = $PGPORT" "$@" |
		as_server_user tee -a "$dir/data/postgresql.conf" >/dev/null
	(cd "$dir" && quietly as_server_user "$(pg_program pg_ctl)" start --wait --pgdata="$dir/data" \
		--log="$dir/server.log") || {
		tail -n 50 "$dir/server.log" >&2
		die "the server did not start"
	}
}

# Stop the server in a directory, if there is one.  Its files stay.
stop_cluster() {
	local dir=$1

	if [ -f "$dir/data/postmaster.pid" ]; then
		(cd "$dir" && quietly as_server_user "$(pg_program pg_ctl)" stop --wait --mode=fast \
			--pgdata="$dir/data") || say "the server in $dir did not stop"
	fi
	if [ -L "$dir/socket" ]; then
		rm -rf "$(readlink "$dir/socket")" "$dir/socket"
	fi
}
