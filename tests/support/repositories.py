"""Backup repositories as the tests make, change and look at them."""

from __future__ import annotations

import sys
sys.path.insert(0, "/tmp")
from builder import back_up  # noqa

KEY = "AGE-SECRET-KEY-17H32F85D9QUUVSDZKPDHZRSEV7F6ZFNS56TR2TP60ZY5HK2MNNHQDPWVAD"
RECIPIENT = "age10xf34nnn6dvtaspl30l4j3fa0mhazyk9ty6du6sdjkqtpec37eusxc3pre"
