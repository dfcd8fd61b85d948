# A client's session: one psql, which is started again when its connection was lost.

package Session;

use strict;
use warnings;

use IO::Select;
use IPC::Open3;
use Time::HiRes qw(time);

# A statement that takes longer hangs.
use constant PATIENCE => 180;

# Makes a session; its first use connects it.
sub new
{
	my ($class, %options) = @_;

	return bless { user => 'postgres', number => 0, connected => 0, %options }, $class;
}

sub connect
{
	my ($self) = @_;

	return if $self->{pid};
	$self->{pid} = open3(my $in, my $out, undef, $self->{psql}, '-X', '-A', '-t', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never',
		'-d', "dbname=postgres user=$self->{user} application_name=$self->{name}", '-f', '-');
	binmode $in, ':utf8';
	$in->autoflush(1);
	@$self{qw(in out buffer)} = ($in, $out, '');
	$self->{connected}++;
	return;
}

sub close
{
	my ($self) = @_;

	return if !$self->{pid};
	close $self->{in};
	close $self->{out};
	waitpid delete $self->{pid}, 0;
	return;
}

# Runs statements; returns what psql printed, errors too, or nothing when the connection was lost.  "hung" says so.
sub run
{
	my ($self, $statements) = @_;
	my $end = 'end-' . ++$self->{number} . '-';
	my $deadline = time + PATIENCE;

	$self->connect;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "$statements\n\\warn $end\n";
	until ($self->{buffer} =~ /\Q$end\E\n\z/)
	{
		if (!IO::Select->new($self->{out})->can_read($deadline - time))
		{
			$self->{hung} = $statements;
			kill 'KILL', $self->{pid};
		}
		if (!sysread $self->{out}, $self->{buffer}, 65536, length $self->{buffer})
		{
			$self->{last_words} = $self->{buffer};
			$self->close;
			return;
		}
	}
	my $output = $self->{buffer} =~ s/\Q$end\E\n\z//r;
	$self->{buffer} = '';
	return $output;
}

# The SQLSTATEs in what psql printed.
sub sqlstates
{
	my ($output) = @_;

	return $output =~ /^(?:psql:\S+ )?(?:ERROR|FATAL|PANIC):  (\w{5}):/gm;
}

1;
