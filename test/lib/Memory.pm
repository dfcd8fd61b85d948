# The memory contexts of processes, as pg_log_backend_memory_contexts() has them written to the server's log.

package Memory;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(memory_of);

# Contexts that keep what the process may need again: they grow when it does something for the first time.
my $cache = qr/^(?:CacheMemoryContext|PL\/pgSQL function): /;

# What each process that is in a part of the log has written of its contexts, in order: line (the one with the total), pid, used
# (bytes of all contexts) and kept (bytes of those among them that are caches).
sub memory_of
{
	my ($log) = @_;
	my (@found, %kept, %level);

	foreach my $line (split /\n/, $log)
	{
		my ($pid, $what) = $line =~ /\[(\d+)\].* LOG:  (.*)/ or next;

		if ($what =~ /^level: (\d+); (.* (\d+) used\b.*)/)
		{
			my ($level, $name, $used) = ($1, $2, $3);

			# What is below a cache belongs to it, and so do its children that are summed up, on its own level.
			delete $level{$pid} if defined $level{$pid} && $level <= $level{$pid} && $name !~ /^\d+ more child contexts /;
			$level{$pid} //= $level if $name =~ $cache;
			$kept{$pid} += $used if defined $level{$pid};
		}
		elsif ($what =~ /^Grand total: .* (\d+) used\b/)
		{
			push @found, { line => $line, pid => $pid, used => $1, kept => delete $kept{$pid} // 0 };
			delete $level{$pid};
		}
	}
	return @found;
}

1;
