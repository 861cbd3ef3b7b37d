"""Looking into a store: what is in it, the history of an aggregate, search, correlations. It changes nothing."""
