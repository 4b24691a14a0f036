"""Element formats: one family per file, each with the names it registers."""
