/*
 * preload.c
 *		Preloaded with AddressSanitizer (linked with "-z initfirst") to have it set up before anything else.
 *
 * It sets itself up in the first malloc(), and looks functions up by name then.  Not to find one takes a lock
 * of gettext's; a library of PostgreSQL's holds that in its constructor while it calls malloc().
 */
#include <stdlib.h>

__attribute__((constructor)) static void
set_up(void)
{
	free(malloc(1));
}
