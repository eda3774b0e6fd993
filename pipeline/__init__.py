"""The engine: runs any flow of stages over one log. Knows no Livestorm and no Salesforce."""
