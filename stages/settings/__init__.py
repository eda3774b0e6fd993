"""Settings of orgs and workspaces: `file` reads and checks the TOML, `defaults` fills the mapping, `changes` compares, writes and shows the rows."""
