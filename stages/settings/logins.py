"""What a login changes in an org's row: a rotated refresh token. Changes nothing that the file says; pure."""

import msgspec

from schemas.settings import Org
from stages.settings.changes import Cipher


def rotated(row: Org, refresh_token: str, cipher: Cipher) -> Org:
    """The row with a new refresh token (plain text). The one that the file gave stays known, so that applying the file again does not bring it back.

    `revision` stays: no setting changed.
    """
    applied = row.refresh_token_applied or row.refresh_token
    return msgspec.structs.replace(row, refresh_token=cipher.encrypt(refresh_token), refresh_token_applied=applied)
