"""The command line: one thin file per command; every decision is made in `lacoot_deploy`."""
