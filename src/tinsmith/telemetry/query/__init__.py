"""Questions to what was recorded: windows, filters, summaries."""
