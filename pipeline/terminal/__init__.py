"""The terminal: options, output, progress, tables, exit statuses and reference pages of the commands."""
