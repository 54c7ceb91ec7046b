"""Files over https: resumable after anything, in parallel, hashed over every byte, visible only when they are whole.

Nothing here knows what a file is for. The releases of llama.cpp and the models come through here.
"""

from noa_lab.download._disk import SPARE_BYTES, check_disk, named_disk_errors
from noa_lab.download._faults import KINDS, Advice, check_address, encrypted, failed, refusal, shown
from noa_lab.download._fetch_file import fetch_file
from noa_lab.download._leftovers import HalfFetched, half_fetched
from noa_lab.download._order import FetchedFile, Order
from noa_lab.download._part import discard, journal_path, part_path
from noa_lab.download._patience import Patience
from noa_lab.download._remote_file import RemoteFile

__all__ = [
    "KINDS",
    "SPARE_BYTES",
    "Advice",
    "FetchedFile",
    "HalfFetched",
    "Order",
    "Patience",
    "RemoteFile",
    "check_address",
    "check_disk",
    "discard",
    "encrypted",
    "failed",
    "fetch_file",
    "half_fetched",
    "journal_path",
    "named_disk_errors",
    "part_path",
    "refusal",
    "shown",
]
