"""`python -m tests.chaos.rome` is the `rome` command of this very checkout."""

from rome_client.cli import main

main()
