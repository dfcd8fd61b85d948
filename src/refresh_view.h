/*
 * refresh_view.h
 *		What the files share that find out what a view computes.
 *
 * refresh_view.c reads the view's query, refresh_expression.c and refresh_order.c judge the expressions in it,
 * refresh_window.c bounds the rows of a group by the partition key, and refresh_index.c looks for indexes that serve
 * the keys.
 */
#ifndef PA_REFRESH_VIEW_H
#define PA_REFRESH_VIEW_H

#include "refresh.h"

/* refresh_expression.c */
extern char *pa_expression_problem(Node *expression, bool is_key);
extern const char *pa_printing_setting(Oid type);
extern bool pa_is_named(Oid function, const char *const *names, int count);

/* refresh_order.c */
extern bool pa_depends_on_order(PaView *view, Node *expression);

/* refresh_total.c */
extern bool pa_cannot_fail(Node *expression);

/* refresh_window.c */
extern void pa_find_window(PaView *view);

#endif							/* PA_REFRESH_VIEW_H */
