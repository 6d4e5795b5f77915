"""The command ``python -m service.security``, which ``gpusq keys`` runs."""

from __future__ import annotations

import sys

from service.security import keys_command

if __name__ == "__main__":
    sys.exit(keys_command.main())
