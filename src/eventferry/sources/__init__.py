"""Tables of other products as sources of events. What may be read from here is in `source`."""
