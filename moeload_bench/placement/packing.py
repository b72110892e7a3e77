"""The arithmetic of `placement`: replication and packing of many rows at once, in whole numbers.

Loads become integer levels, and everything that decides a choice is packed into one 64-bit key (load, count, number).
One minimum or one sort then decides for all rows, ties included.
Axis letters: N rows (plans), E experts, X experts that can get replicas, M items, B bins, R replica slots, D devices.
"""

from __future__ import annotations

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray

FULL_BIT = 62  # of a bin's key: the highest below the sign
HELD_BIT = 61
SORT_BITS = 62  # of the key of an item
ROWS_BITS = 10  # of the number of a row
MAX_CELLS = 1 << 15  # rows x slots worked on at once: arrays that stay in the cache


def max_rows(slots: int) -> int:
    """Return how many rows to work on at once."""
    return max(1, min(1 << ROWS_BITS, MAX_CELLS // slots))


def quantise(load_NE: FloatArray, items: int) -> IntArray:
    """Return whole-number levels, as fine as the keys allow: a row's levels sum to less than 2^level_bits."""
    total = load_NE.sum(axis=1, keepdims=True)
    scale = float(1 << min(level_bits(items), 52))
    return (load_NE * (scale / np.where(total > 0, total, 1.0))).astype(np.int64)


def level_bits(items: int) -> int:
    """Return how many bits a level can have if the keys also hold the numbers of items, bins and rows."""
    return HELD_BIT - ROWS_BITS - 2 * items.bit_length() - 1


def assign(level_NE: IntArray, label_NE: IntArray, slots: int, devices: int) -> IntArray:
    """Replicate experts into slots and pack them on devices; return the label in each slot [N, R]."""
    rows, experts = level_NE.shape
    count_NE = np.ones_like(level_NE)
    if slots > experts:
        level_NE, count_NE = replicate(level_NE, slots)
    label_bits, count_bits = int(label_NE.max()).bit_length(), slots.bit_length()
    top = (1 << (SORT_BITS - label_bits - count_bits)) - 1
    key_NE = top - level_NE
    for field, bits in ((label_NE, label_bits), (count_NE, count_bits)):
        key_NE <<= bits
        key_NE |= field
    key_NE.sort(axis=1)  # one sort of a packed key is several times faster than an indirect sort
    if slots > experts:
        times = key_NE & ((1 << count_bits) - 1)
        key_NE = np.repeat(key_NE.ravel(), times.ravel()).reshape(rows, slots)
    level_MN = np.ascontiguousarray(key_NE.T)
    level_MN >>= count_bits
    label_MN = level_MN & ((1 << label_bits) - 1)
    level_MN >>= label_bits
    np.subtract(top, level_MN, out=level_MN)
    slot_label, forced_N = pack(level_MN, label_MN, devices, replicas=slots > experts)
    if forced_N.any():
        spread(slot_label, level_NE, label_NE, devices, np.flatnonzero(forced_N))
    return slot_label


def replicate(level_NE: IntArray, slots: int) -> tuple[IntArray, IntArray]:
    """Return level per replica and replicas of each expert, both [N, E].

    Every spare slot goes to the expert with the highest level per replica.
    """
    rows, experts = level_NE.shape
    spare = slots - experts
    width = min(experts, spare)  # only the `spare` largest experts can get a replica
    expert_bits = experts.bit_length()
    top = (1 << (SORT_BITS - expert_bits)) - 1
    order = top - level_NE
    order <<= expert_bits
    order |= np.arange(experts)
    order.sort(axis=1)
    order_XN = np.ascontiguousarray(order[:, :width].T)
    level_XN, expert_XN = top - (order_XN >> expert_bits), order_XN & ((1 << expert_bits) - 1)
    count_XN = np.ones_like(level_XN)
    bits = width.bit_length()
    mask = (1 << bits) - 1
    key_XN = (level_XN << bits) | (width - np.arange(width))[:, None]
    key, level, count, column = key_XN.ravel(), level_XN.ravel(), count_XN.ravel(), np.arange(rows)
    for _ in range(spare):
        low = np.maximum.reduce(key_XN, axis=0) & mask
        cell = (width - low) * rows + column
        more = count[cell] + 1
        count[cell] = more
        key[cell] = ((level[cell] // more) << bits) | low
    level_NE, count_NE = level_NE.copy(), np.ones((rows, experts), dtype=np.int64)
    level_NE[column, expert_XN] = key_XN >> bits
    count_NE[column, expert_XN] = count_XN
    return level_NE, count_NE


def pack(level_MN: IntArray, label_MN: IntArray, bins: int, replicas: bool) -> tuple[IntArray, BoolArray]:
    """Return the label in each place [N, M] (bin by bin) of items given in falling order of level.

    Each item goes to the bin with the lowest key that is not full. The key holds, from the highest bit: full, held, the
    bin's load, one bit that the count of items overflows into when the bin is full, that count, and the bin's place in
    the array of keys. With ``replicas``, items of one label are neighbours; while they are placed, a bin that has taken
    one is held back from the others. Return also the rows [N] in which only a held bin had room.
    """
    items, rows = level_MN.shape
    room = items // bins
    position_bits, count_bits = (bins * rows - 1).bit_length(), room.bit_length()
    full_from, empty = position_bits + count_bits, (1 << count_bits) - room
    step_MN = level_MN << (count_bits + 1)
    step_MN |= 1
    step_MN <<= position_bits
    empty_BN = (np.arange(bins * rows) | (empty << position_bits)).reshape(bins, rows)
    chosen_MN = np.empty_like(step_MN)
    chosen_MN[:bins] = empty_BN  # the first items find every bin empty and take them in order
    key_BN = np.add(empty_BN, step_MN[:bins], out=empty_BN)
    held_MN, keep_MN = _holds(label_MN) if replicas else (step_MN[:0], step_MN[:0])
    if len(held_MN) >= bins:
        key_BN |= np.where(label_MN[:bins] == label_MN[bins - 1], held_MN[bins - 1], 0)
    key, position_mask, full_mask = key_BN.ravel(), (1 << position_bits) - 1, 1 << full_from
    position, full = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
    for item in range(bins, items):
        lightest, after = chosen_MN[item], step_MN[item]
        np.minimum.reduce(key_BN, axis=0, out=lightest)
        np.bitwise_and(lightest, position_mask, out=position)
        after += lightest
        np.bitwise_and(after, full_mask, out=full)
        full <<= FULL_BIT - full_from
        after |= full
        if item < len(held_MN):
            after |= held_MN[item]
            key[position] = after
            key_BN &= keep_MN[item]
        else:
            key[position] = after
    forced_N = np.bitwise_or.reduce(chosen_MN[: len(held_MN)], axis=0) >> HELD_BIT > 0
    place_of = np.repeat(np.arange(bins) * room - empty, rows) + np.tile(np.arange(rows) * items, bins)
    place_MN = place_of[chosen_MN & position_mask]
    chosen_MN >>= position_bits
    chosen_MN &= (1 << count_bits) - 1
    place_MN += chosen_MN
    label_NM = np.empty((rows, items), dtype=np.int64)
    label_NM.ravel()[place_MN] = label_MN
    return label_NM, forced_N


def _holds(label_MN: IntArray) -> tuple[IntArray, IntArray]:
    """Return bits to set in the key of the bin that takes an item, and bits to keep in all keys of the row afterwards.

    Both are [items up to the last replica, N]: a bin is held while more items of the label follow.
    """
    more_MN = label_MN[1:] == label_MN[:-1]
    until = int(np.flatnonzero(more_MN.any(axis=1))[-1]) + 1
    held_MN = np.zeros((until + 1, label_MN.shape[1]), dtype=np.int64)
    np.left_shift(more_MN[:until], HELD_BIT, out=held_MN[:until], dtype=np.int64)
    keep_MN = np.full_like(held_MN, -1)
    keep_MN[1:] ^= held_MN[:-1] & ~held_MN[1:]
    return held_MN, keep_MN


def spread(slot_label: IntArray, level_NE: IntArray, label_NE: IntArray, devices: int, rows: IntArray) -> None:
    """Swap slots of ``rows``, in place, until no device holds two replicas of an expert that another device lacks.

    `pack` makes such a pair only in the rows that it returns. A swap takes the partner that leaves the lower maximum of
    the two devices. It never makes a new pair without removing one. By the pigeonhole principle there is always such a
    partner, so every round removes one pair per row.
    """
    while rows.size:
        level_of = np.zeros((rows.size, int(label_NE.max()) + 1), dtype=np.int64)
        np.put_along_axis(level_of, label_NE[rows], level_NE[rows], axis=1)
        plan_nR = slot_label[rows]
        swapped = _swap_one(plan_nR, level_of, devices)
        slot_label[rows] = plan_nR
        rows = rows[swapped]


def _swap_one(plan_nR: IntArray, level_nE: IntArray, devices: int) -> BoolArray:
    """Make one swap, in place, in each row that needs one; return which rows did."""
    (n, slots), experts = plan_nR.shape, level_nE.shape[1]
    row = np.arange(n)[:, None]
    device = np.arange(slots) // (slots // devices)
    host = np.bincount(((row * devices + device) * experts + plan_nR).ravel(), minlength=n * devices * experts)
    host_nDE = host.reshape(n, devices, experts)
    twice_nR = host_nDE[row, device, plan_nR] > 1
    lacking_nE = (host_nDE == 0).any(axis=1)
    wrong_nR = twice_nR & lacking_nE[row, plan_nR]
    a = wrong_nR.argmax(axis=1)
    device_a, expert_a = device[a], plan_nR[row[:, 0], a]
    weight_nR = level_nE[row, plan_nR]
    load_nD = weight_nR.reshape(n, devices, -1).sum(axis=2)
    weight_a, load_a = weight_nR[row[:, 0], a][:, None], load_nD[row[:, 0], device_a][:, None]
    worst_nR = np.maximum(load_a - weight_a + weight_nR, load_nD[:, device] - weight_nR + weight_a)
    lacks_a = host_nDE[row, device, expert_a[:, None]] == 0
    new_to_a = host_nDE[row, device_a[:, None], plan_nR] == 0
    worst_nR[~(lacks_a & (new_to_a | twice_nR))] = np.iinfo(np.int64).max
    b = worst_nR.argmin(axis=1)
    swapped: BoolArray = wrong_nR.any(axis=1)
    act, a, b = np.flatnonzero(swapped), a[swapped], b[swapped]
    plan_nR[act, a], plan_nR[act, b] = plan_nR[act, b], plan_nR[act, a]
    return swapped
