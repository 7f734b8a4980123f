"""``python -m syncyte``: the same as the ``syncyte`` command."""

from syncyte.cli import main

if __name__ == "__main__":
    main()
