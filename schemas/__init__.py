"""What travels: events between stages, rows of tables, settings, Livestorm's and Salesforce's shapes. Imports nothing of ours."""
