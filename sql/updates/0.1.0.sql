-- Functions of version 0.1.0 that are no more, or have other arguments or another result.

SELECT prod_analytics.drop_function('close_functions()');
SELECT prod_analytics.drop_function('make_default_checks()');
SELECT prod_analytics.drop_function('migrate_tables()');
SELECT prod_analytics.drop_function('run_check(text)');
