SELECT 'BigQuery' AS service, CURRENT_TIMESTAMP() AS asked_at
