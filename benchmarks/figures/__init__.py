"""One module per figure; each has `measure(context)`, which returns its rows."""
