"""Time zones as text: the name of a zone, or its fixed offset from UTC."""

from __future__ import annotations

import datetime
import re

from .libraries import UnsupportedValue

ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,3}")
_OFFSET = re.compile(r"UTC([+-])(\d\d):(\d\d)")


def zone_text(zone: datetime.tzinfo | None) -> str | None:
    """Return the name of a time zone, or its offset as ``UTC+01:00``.

    Raises:
        UnsupportedValue: If the zone has neither a portable name nor an offset in whole minutes.
    """
    if zone is None:
        return None
    name = str(getattr(zone, "key", None) or getattr(zone, "zone", None) or zone)
    if ZONE.fullmatch(name) or _OFFSET.fullmatch(name):
        return name
    if (offset := zone.utcoffset(None)) is not None and offset.seconds % 60 == 0:
        return str(datetime.timezone(offset))
    raise UnsupportedValue(f"time zone {zone!r} cannot be sent: use zoneinfo.ZoneInfo")


def zone_of(text: object) -> datetime.tzinfo | str | None:
    """Return the time zone for a text of :func:`zone_text`, as pandas accepts it.

    Raises:
        ValueError: If ``text`` is not such a text.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError("not a time zone")
    if found := _OFFSET.fullmatch(text):
        offset = datetime.timedelta(hours=int(found[2]), minutes=int(found[3]))
        return datetime.timezone(-offset if found[1] == "-" else offset)
    if ZONE.fullmatch(text) is None or text.startswith(
        "dateutil"
    ):  # for dateutil zones, pandas opens a file of that name
        raise ValueError("not a time zone")
    return text
