"""A recorded session in other formats.

One module per format. Each takes a recording and writes what the other program reads, by that program's own
specification. The page of a session is not an export but the package ``page``; reading other formats is not
done here. An exporter imports the libraries of its format when it runs.
"""
