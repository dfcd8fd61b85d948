-- Settings: defaults, checks, and names that do not exist.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;

SELECT name, setting, context FROM pg_settings WHERE name LIKE 'prod\_analytics.%' ORDER BY name COLLATE "C";

SET prod_analytics.max_event_age = '36 hours';
SHOW prod_analytics.max_event_age;
SET prod_analytics.max_event_age = '1 year 2 mons 3 days 04:05:06';
SET prod_analytics.max_event_lead = '0';
SET prod_analytics.max_event_lead = '1000 years';

-- error: not an interval
SET prod_analytics.max_event_age = 'a while';
SET prod_analytics.max_event_age = '';
SET prod_analytics.max_event_age = '99999999999999999999 years';
-- error: negative
SET prod_analytics.max_event_lead = '-1 day';
SET prod_analytics.max_event_lead = '1 day -25 hours';
-- error: so long that adding it to a timestamp could fail
SET prod_analytics.max_event_age = '1001 years';
SET prod_analytics.max_event_age = 'infinity';
-- error: not one of the options
SET prod_analytics.create_tables = 'maybe';
-- error: a name of ours that does not exist is a mistake, not a new setting
SET prod_analytics.max_event_aeg = '1 day';
