
SELECT prod_analytics.finish_update();
