"""`python -m rome_client`: the `rome` command."""

from rome_client.cli import main

main()
