"""The command line of the suite; see `kda --help`."""
