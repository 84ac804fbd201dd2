"""The configuration: its schema, its sources and their precedence."""
