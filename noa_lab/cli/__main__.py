"""`python -m noa_lab.cli`: the same as `noa-lab`."""

from noa_lab.cli import main

main()
