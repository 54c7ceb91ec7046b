"""Where runs are kept: one database that several processes read and write at once.

`Store` reads and writes runs and cells; a lease says which process executes a run; the writer commits what finishes in groups.
"""
