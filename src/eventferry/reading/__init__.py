"""Reading: the order of events, and what is built on it: pages, exports, partitions."""
