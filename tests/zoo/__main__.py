"""Prints the table of all models and operations."""

import sys

from tests.test_users_models import print_table

if __name__ == "__main__":
    sys.exit(print_table(sys.argv[1:]))
