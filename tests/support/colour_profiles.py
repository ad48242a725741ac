"""ICC profiles that are written by hand."""

import numpy as np


def profile_of(primaries, gamma, kind=b"RGB "):
    """Write an ICC profile of version 2 by hand: a matrix of primaries and a power."""
    white = np.array([0.9642, 1.0, 0.8249])

    def fixed(value):
        return round(value * 65536).to_bytes(4, "big", signed=True)

    def xyz(values):
        return b"XYZ " + bytes(4) + b"".join(map(fixed, values))

    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + int(gamma * 256).to_bytes(2, "big") + bytes(2)
    tags = {b"wtpt": xyz(white), b"cprt": b"text" + bytes(4) + b"none\0\0\0\0"}
    tags[b"desc"] = b"desc" + bytes(4) + (5).to_bytes(4, "big") + b"test\0" + bytes(79)
    if kind == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
        columns = columns * np.linalg.solve(columns, white)
        tags |= {name: xyz(columns[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    place, table, content = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + (place + len(content)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        content += value
    header = bytes(8) + bytes.fromhex("02400000") + b"mntr" + kind + b"XYZ " + bytes(12) + b"acsp"
    header += bytes(28) + b"".join(map(fixed, white))
    size = place + len(content)
    head = size.to_bytes(4, "big") + header[4:]
    return head + bytes(128 - len(head)) + len(tags).to_bytes(4, "big") + table + content


WIDE = profile_of([(0.7, 0.29), (0.17, 0.79), (0.14, 0.05)], 2.2)
