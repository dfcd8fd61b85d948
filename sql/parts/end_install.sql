
SELECT prod_analytics.close_functions();
SELECT prod_analytics.install_tables();
