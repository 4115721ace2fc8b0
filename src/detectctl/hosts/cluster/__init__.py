"""A service on somebody's Ray cluster, reached by its dashboard's HTTP interface alone."""
