"""The arithmetic under `placement`: replication and packing of many rows at once, in whole numbers.

Loads become integer levels, and everything that decides a choice is packed into one 64-bit key (load, count, number):
one minimum or one sort then decides for all rows, ties included.

Axis letters: N rows (plans), E experts, X experts that can get replicas, M items, B bins, R replica slots, D devices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

FULL_BIT = 62  # of a 64-bit key: the highest below the sign
LOAD_BITS = 61  # what lies below the bits that mark a device as full or held
HELD = 1 << LOAD_BITS


def quantise(load_NE: FloatArray, items: int) -> IntArray:
    """Whole-number levels; a row's sum leaves room in a key for an item's number, or for a bin's and its count."""
    low_bits = 2 * items.bit_length() + 1
    scale = float(1 << min(LOAD_BITS - low_bits, 52))
    total = load_NE.sum(axis=1, keepdims=True)
    return np.asarray(load_NE * (scale / np.where(total > 0, total, 1.0)), dtype=np.int64)


def falling(level_NM: IntArray) -> tuple[IntArray, IntArray]:
    """Levels in falling order and the items they belong to, both [N, M]; equal levels keep the items' order.

    One sort of a packed integer key is several times faster than an indirect sort.
    """
    bits = level_NM.shape[1].bit_length()
    top = (1 << (LOAD_BITS - bits)) - 1
    key = ((top - level_NM) << bits) | np.arange(level_NM.shape[1])
    key.sort(axis=1)
    return top - (key >> bits), key & ((1 << bits) - 1)


def replicate(level_NE: IntArray, slots: int) -> IntArray:
    rows, experts = level_NE.shape
    count_NE = np.ones((rows, experts), dtype=np.int64)
    spare = slots - experts
    if not spare:
        return count_NE
    width = min(experts, spare)  # only the `spare` largest experts can ever be given a replica
    level, order = falling(level_NE)
    level_XN = np.ascontiguousarray(level[:, :width].T)
    count_XN = np.ones_like(level_XN)
    bits = width.bit_length()
    mask = (1 << bits) - 1
    key_XN = (level_XN << bits) | (width - np.arange(width))[:, None]
    column = np.arange(rows)
    for _ in range(spare):
        largest = key_XN.max(axis=0)
        low = largest & mask
        at = (width - low) * rows + column
        count = count_XN.ravel()[at] + 1
        count_XN.ravel()[at] = count
        key_XN.ravel()[at] = ((level_XN.ravel()[at] // count) << bits) | low
    np.put_along_axis(count_NE, order[:, :width], count_XN.T, axis=1)
    return count_NE


def pack(level_NM: IntArray, label_NM: IntArray, bins: int) -> IntArray:
    """The label in each place [N, M] (bin by bin) of items given in falling order of level.

    A bin's key holds, from the highest bit: full, held, its load, its number of items, its own number. While items of
    one label are being placed (they are neighbours), a bin that has taken one is held back from the others.
    """
    rows, items = level_NM.shape
    room = items // bins
    bin_bits, count_bits = bins.bit_length(), room.bit_length()
    bin_mask, count_mask = (1 << bin_bits) - 1, (1 << count_bits) - 1
    step_MN, release_MN = _steps(level_NM, label_NM, bin_bits, count_bits)
    releases_M = (release_MN != -1).any(axis=1)
    place_MN = np.empty((items, rows), dtype=np.int64)
    key_BN = np.repeat(np.arange(bins, dtype=np.int64)[:, None], rows, axis=1)
    key, column = key_BN.ravel(), np.arange(rows)
    for item in range(items):
        lightest = key_BN.min(axis=0)
        bin_ = lightest & bin_mask
        count = (lightest >> bin_bits) & count_mask
        place_MN[item] = bin_ * room + count
        lightest &= ~HELD
        lightest += step_MN[item]
        lightest |= (count == room - 1).astype(np.int64) << FULL_BIT
        key[bin_ * rows + column] = lightest
        if releases_M[item]:
            key_BN &= release_MN[item]
    label_at = np.empty((rows, items), dtype=np.int64)
    np.put_along_axis(label_at, place_MN.T, label_NM, axis=1)
    return label_at


def _steps(level_NM: IntArray, label_NM: IntArray, bin_bits: int, count_bits: int) -> tuple[IntArray, IntArray]:
    """What each item adds to its bin's key, and what is left of all keys of its row after it, both [M, N]."""
    step_NM = (level_NM << count_bits) + 1 << bin_bits
    release_NM = np.full_like(step_NM, -1)
    more = label_NM[:, 1:] == label_NM[:, :-1]
    step_NM[:, :-1][more] |= HELD
    last = more.copy()
    last[:, :-1] &= ~more[:, 1:]
    release_NM[:, 1:][last] = ~HELD
    return np.ascontiguousarray(step_NM.T), np.ascontiguousarray(release_NM.T)


def spread(slot_expert: IntArray, level_NE: IntArray, devices: int) -> None:
    """Swap slots, in place, until no device holds two replicas of an expert that another device lacks.

    `pack` makes such a pair only when no other device has room left, and then as neighbours on the device. A swap takes
    the partner that leaves the lower maximum of the two devices; it never makes a new pair without undoing one, and by
    the pigeonhole principle there is always such a partner, so every round removes one pair per row.
    """
    by_device = slot_expert.reshape(len(slot_expert), devices, -1)
    rows = np.flatnonzero((by_device[:, :, 1:] == by_device[:, :, :-1]).any(axis=(1, 2)))
    while rows.size:
        swapped = _swap_one(slot_expert, level_NE, devices, rows)
        rows = rows[swapped]


def _swap_one(slot_expert: IntArray, level_NE: IntArray, devices: int, rows: IntArray) -> NDArray[np.bool_]:
    """One swap in each of ``rows`` that needs one; returns which did."""
    plan_nR, experts = slot_expert[rows], level_NE.shape[1]
    n, slots = plan_nR.shape
    row = np.arange(n)[:, None]
    device = np.arange(slots) // (slots // devices)
    host = np.bincount(((row * devices + device) * experts + plan_nR).ravel(), minlength=n * devices * experts)
    host_nDE = host.reshape(n, devices, experts)
    twice_nR = host_nDE[row, device, plan_nR] > 1
    lacking_nE = (host_nDE == 0).any(axis=1)
    wrong_nR = twice_nR & lacking_nE[row, plan_nR]
    a = wrong_nR.argmax(axis=1)
    device_a, expert_a = device[a], plan_nR[row[:, 0], a]
    weight_nR = level_NE[rows[:, None], plan_nR]
    load_nD = weight_nR.reshape(n, devices, -1).sum(axis=2)
    weight_a, load_a = weight_nR[row[:, 0], a][:, None], load_nD[row[:, 0], device_a][:, None]
    worst_nR = np.maximum(load_a - weight_a + weight_nR, load_nD[:, device] - weight_nR + weight_a)
    lacks_a = host_nDE[row, device, expert_a[:, None]] == 0
    new_to_a = host_nDE[row, device_a[:, None], plan_nR] == 0
    worst_nR[~(lacks_a & (new_to_a | twice_nR))] = np.iinfo(np.int64).max
    b = worst_nR.argmin(axis=1)
    swapped: NDArray[np.bool_] = wrong_nR.any(axis=1)
    act, a, b = rows[swapped], a[swapped], b[swapped]
    slot_expert[act, a], slot_expert[act, b] = slot_expert[act, b], slot_expert[act, a]
    return swapped
