# Killing a server of PostgreSQL::Test.
package Crash;

use strict;
use warnings;

use Exporter qw(import);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

our @EXPORT_OK = qw(kill_server);

# Kills the postmaster, and waits until nothing is left of the server: another one does not start while any process of its
# predecessor is there.  A postmaster that is stopped first starts none that is not known here.  Returns the processes that it had.
sub kill_server
{
	my ($node) = @_;
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my $attempts = 100 * $PostgreSQL::Test::Utils::timeout_default;

	kill 'STOP', $postmaster;
	my @children = map { /^\s*(\d+)\s+$postmaster\s*$/ ? $1 : () } split /\n/, `ps -A -o pid= -o ppid=`;
	$node->kill9;
	while (grep { kill 0, $_ } $postmaster, @children)
	{
		BAIL_OUT('processes of the server that was killed do not end') if !--$attempts;
		sleep 0.01;
	}
	return @children;
}

1;
