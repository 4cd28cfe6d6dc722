SELECT current_database() AS database, version() AS version, now() AS asked_at
