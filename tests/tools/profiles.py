"""The reference data: the profile of a user is a pure function of the user's number, so that nobody needs to ask anybody.

One user in ten has no profile, and one profile in twenty no country.
"""

COUNTRIES = ("FR", "DE", "ES", "IT", "NL", "BE", "PT", "PL", "SE", "JP", "US")


def user_id(number):
    return f"u{number:07d}"


def _mix(number):
    """The finalizer of MurmurHash3 (32 bits): neighbouring numbers get unrelated values."""
    h = number & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


def profile(uid):
    """(segment, score, country) of a user id; None when the user has no profile."""
    h = _mix(int(uid[1:]))
    if h % 10 == 0:
        return None
    country = None if (h >> 4) % 20 == 0 else COUNTRIES[(h >> 9) % len(COUNTRIES)]
    return f"segment-{(h >> 14) % 40:02d}", ((h >> 7) % 100_000) / 1000, country
