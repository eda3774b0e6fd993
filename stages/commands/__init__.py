"""The subcommands of `turnout`, one module each: they read arguments, call what does the work, and print."""
