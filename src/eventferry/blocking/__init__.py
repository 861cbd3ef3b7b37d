"""How the library works without await. Its public names are those of `eventferry.sync`."""
